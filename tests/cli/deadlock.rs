//! Cycles of waits through the program: the last one is refused, with the cycle spelled out; nobody else is disturbed.

use crate::util::{FLOCKD, Ground};
use serde_json::Value;

fn cycle(answer: &Value) -> Vec<&str> {
    answer["cycle"].as_array().unwrap().iter().map(|step| step.as_str().unwrap()).collect()
}

#[test]
fn the_second_of_two_runs_that_want_each_others_lock_is_refused() {
    let ground = Ground::new();
    let mut second = ground.script("b", "@y", &format!("echo $$; read line; exec {FLOCKD} run --json @x -- true"));
    second.granted();
    let mut first = ground.script("a", "@x", &format!("echo $$; exec {FLOCKD} run @y -- true"));
    first.granted();
    ground.until_waiting(&["a"]);
    second.let_go();
    let refused = second.done().gives(4).json();
    assert_eq!((&refused["acquired"], &refused["code"]), (&false.into(), &"deadlock".into()));
    assert_eq!(cycle(&refused), ["b wants @x: a holds it", "a wants @y: b holds it"]);
    // Its end lets the other one go on.
    first.done().gives(0);
    assert_eq!(ground.status().locks, []);
}

#[test]
fn whoever_closes_a_cycle_of_two_or_three_agents_is_refused_and_the_others_go_on() {
    for agents in [&["a", "b"][..], &["a", "b", "c"]] {
        let ground = Ground::new();
        for agent in agents {
            ground.flockd(agent, &format!("lock @{agent}")).gives(0);
        }
        let (last, waiting) = agents.split_last().unwrap();
        std::thread::scope(|scope| {
            let mut asked = Vec::new();
            for (number, agent) in waiting.iter().enumerate() {
                let ask = format!("lock @{} --wait 110s", agents[number + 1]);
                let ground = &ground;
                asked.push(scope.spawn(move || ground.flockd(agent, &ask)));
                ground.until_waiting(&waiting[..=number]);
            }
            let refused = ground.flockd(last, "lock @a --wait 60 --json").gives(4).json();
            let mut steps = vec![format!("{last} wants @a: a holds it")];
            steps.extend(agents.windows(2).map(|pair| format!("{} wants @{}: {} holds it", pair[0], pair[1], pair[1])));
            assert_eq!(cycle(&refused), steps);
            assert_eq!(refused["code"], "deadlock");
            let told = ground.flockd(last, "lock @a").gives(4);
            told.says(&["would close a cycle", &steps[0], &steps[1], "release what you hold"]);
            ground.until_waiting(waiting);
            // A try waits for nobody and so closes no cycle.
            ground.flockd(last, "lock -n @a").gives(1);
            let waits_for_the_cycle = ground.flockd(last, "wait @a");
            assert_eq!(waits_for_the_cycle.code, Some(4), "{waits_for_the_cycle:?}");

            for (agent, asked) in agents.iter().skip(1).zip(asked).collect::<Vec<_>>().into_iter().rev() {
                ground.flockd(agent, "unlock --all").gives(0);
                asked.join().unwrap().gives(0);
            }
        });
    }
}

#[test]
fn a_reader_that_wants_to_write_what_others_read_is_no_silent_standstill() {
    let ground = Ground::new();
    for agent in ["a", "b"] {
        ground.flockd(agent, "lock -s x").gives(0);
    }
    std::thread::scope(|scope| {
        let first = scope.spawn(|| ground.flockd("a", "lock x --wait forever"));
        ground.until_waiting(&["a"]);
        for verb in ["lock x --wait forever", "upgrade x --wait forever"] {
            let refused = ground.flockd("b", verb).gives(4);
            let refused = refused.says(&["b wants", "a holds it", "a wants", "to wait for that would close a cycle"]);
            let refused = refused.says(&["you share it as before (lk_", "give that up", "ask for it exclusively"]);
            assert!(!refused.err.contains("asked before you"), "the cycle says it: {refused:?}");
        }
        let tried = ground
            .flockd("b", "upgrade -n x")
            .gives(1)
            .says(&["you share it as before", "give up what you share (lk_"]);
        assert!(!tried.err.contains("wait longer"), "that would be a deadlock: {tried:?}");
        let refused = ground.flockd("b", "upgrade x --json").gives(4).json();
        assert_eq!((&refused["acquired"], &refused["mode"]), (&false.into(), &"shared".into()));
        ground.flockd("b", "unlock x").gives(0);
        first.join().unwrap().gives(0);
    });
    assert_eq!(ground.status().locks.len(), 1);
}
