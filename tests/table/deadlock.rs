//! Random graphs of waits: each that would close a cycle is refused at once, and no other.

use crate::rules::{Desk, target};
use crate::{scaled, seed};
use flockd::model::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeMap;

const GRAPHS: usize = 1_000;

/// Agents in a hidden order, each holds something, and waits for some of those before it.
#[derive(Clone, Debug)]
struct Graph {
    /// Library session or one-shot.
    in_session: Vec<bool>,
    /// Whether what it holds is a subtree.
    holds_tree: Vec<bool>,
    /// For each agent but the first: what it waits for, as a number to be taken modulo the agents before it, and
    /// whether the whole subtree is meant. None does not wait.
    waits: Vec<Option<(usize, bool)>>,
    /// Agents come in this order.
    order: Vec<usize>,
    /// Where the cycle is closed: an agent that somebody reaches, as a number.
    closes: usize,
}

fn graph() -> impl Strategy<Value = Graph> {
    (2..=50_usize).prop_flat_map(|agents| {
        let flags = || proptest::collection::vec(any::<bool>(), agents);
        let wait = proptest::option::weighted(0.8, (0..1_000_usize, any::<bool>()));
        let waits = proptest::collection::vec(wait, agents);
        let order = Just((0..agents).collect::<Vec<_>>()).prop_shuffle();
        (flags(), flags(), waits, order, 0..1_000_usize).prop_map(|(in_session, holds_tree, waits, order, closes)| {
            Graph { in_session, holds_tree, waits, order, closes }
        })
    })
}

impl Graph {
    fn name(&self, agent: usize) -> String {
        if self.in_session[agent] { format!("a{agent}#1") } else { format!("a{agent}") }
    }

    fn holds(&self, agent: usize) -> String {
        if self.holds_tree[agent] { format!("/w/{agent}/") } else { format!("/w/{agent}/f") }
    }

    /// Everybody holds its own; then everybody waits for one before it: no cycle can be.
    fn play(&self) -> (Desk, BTreeMap<usize, usize>) {
        let mut desk = Desk::new();
        for &agent in &self.order {
            assert_eq!(desk.ask(&self.name(agent), &format!("x {}", self.holds(agent))), "granted");
        }
        let mut waits_for = BTreeMap::new();
        for &agent in self.order.iter().filter(|agent| **agent > 0) {
            // The last one always waits, so that there is a cycle to close.
            let is_last = agent + 1 == self.order.len();
            let Some((n, tree)) = self.waits[agent].or(is_last.then_some((self.closes, false))) else { continue };
            let other = n % agent;
            let scope = if tree { format!("/w/{other}/") } else { format!("/w/{other}/f") };
            assert_eq!(desk.wait(&self.name(agent), &format!("x {scope}")), "waits", "a false alarm");
            waits_for.insert(agent, other);
        }
        (desk, waits_for)
    }
}

fn for_each_graph(check: impl Fn(&Graph)) {
    let (seed, graphs) = (seed(), scaled(GRAPHS));
    eprintln!("{graphs} graphs, FLOCKD_SEED={seed}");
    let config = Config { cases: graphs as u32, failure_persistence: None, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let outcome = runner.run(&graph(), |graph| {
        check(&graph);
        Ok(())
    });
    if let Err(why) = outcome {
        panic!("with FLOCKD_SEED={seed}: {why}");
    }
}

#[test]
fn what_a_file_is_put_in_place_under_for_a_moment_is_waited_for_by_nobody_who_has_it() {
    for words in ["x /f", "x /f /g"] {
        let mut desk = Desk::new();
        desk.ask("ada", "x /f");
        desk.ask("cy", "x /g");
        assert_eq!(desk.wait("bo", "x /f"), "waits");
        assert_eq!(desk.commit("ada", "/f", None), "waits");
        assert_eq!(desk.wait_all("ada#1", words), "waits", "for the write, and for cy");
        desk.in_place();
        desk.unlock("cy", "/g");
        assert!(desk.news().iter().any(|news| news.starts_with("ada#1: resumed")));
    }
}

#[test]
fn a_lock_that_goes_back_may_close_a_cycle_and_its_agent_is_told() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    desk.ask("bo", "x /h");
    assert_eq!(desk.ask("ada#1", "x /f"), "resumed");
    assert_eq!(desk.wait("ada", "x /h"), "waits");
    assert_eq!(desk.wait("bo", "x /f"), "waits", "for the session, which waits for nobody");
    desk.unlock("ada#1", "/f");
    assert_eq!(desk.news(), ["ada: deadlock ada > bo"]);
    desk.unlock("ada", "/f");
    assert_eq!(desk.news(), ["bo: granted"]);
}

#[test]
fn a_thousand_acyclic_wait_graphs_raise_no_alarm_and_run_dry() {
    for_each_graph(|graph| {
        let (mut desk, waits_for) = graph.play();
        desk.news();
        // Whoever holds something and waits for nothing lets go, until nobody is left.
        let mut granted = 0;
        while desk.table.waiters() > 0 {
            let before = granted;
            for agent in 0..graph.order.len() {
                desk.unlock(&graph.name(agent), "all");
                granted += desk.news().len();
            }
            assert!(granted > before, "nobody can go on");
        }
        assert_eq!((granted, desk.table.waiters()), (waits_for.len(), 0));
    });
}

#[test]
fn a_thousand_cyclic_wait_graphs_are_refused_at_the_closing_request_and_the_cycle_is_named() {
    for_each_graph(|graph| {
        let (mut desk, waits_for) = graph.play();
        // From some waiting agent along its waits to the one that waits for nobody: that one closes the cycle.
        let &start = waits_for.keys().nth(graph.closes % waits_for.len()).expect("somebody waits");
        let mut last = start;
        while let Some(next) = waits_for.get(&last) {
            last = *next;
        }
        let before = (desk.status("nobody"), desk.table.locks());
        let words = format!("x {}", graph.holds(start));
        let outcome = desk.wait(&graph.name(last), &words);
        assert!(outcome.starts_with("deadlock"), "{} waits for {words}: {outcome}", graph.name(last));
        let Reply::Refused(refused) = desk.last.clone().expect("it was answered at once").reply else { panic!() };
        let RefusedFor::Deadlock(cycle) = refused.why else { panic!() };
        is_real(&mut desk, &cycle, &format!("a{last}"), &words[2..]);
        assert!(desk.news().is_empty(), "nobody else is disturbed");
        assert_eq!((desk.status("nobody"), desk.table.locks()), before);
        desk.unlock(&graph.name(start), "all");
        let again = desk.wait(&graph.name(last), &words);
        assert!(!again.contains(&format!("a{start} ")), "a{start} holds and waits for nothing, but: {again}");
    });
}

/// Each link is a wait that is there, and each leads to the next.
fn is_real(desk: &mut Desk, cycle: &[Link], requester: &str, wants: &str) {
    assert!(cycle.len() >= 2, "{cycle:?}");
    assert_eq!(cycle[0].waits.as_str(), requester);
    assert_eq!(cycle[0].wants, target(wants).scope);
    let (locks, waiters) = desk.status("nobody");
    for (n, link) in cycle.iter().enumerate() {
        assert_eq!(link.behind, cycle[(n + 1) % cycle.len()].waits);
        let asks = waiters.iter().map(|queued| &queued.waiter);
        let own: Vec<_> =
            asks.clone().filter(|w| w.ask.who.agent == link.waits && w.ask.target.scope == link.wants).collect();
        assert!(n == 0 || !own.is_empty(), "{} does not wait for {}", link.waits, link.wants);
        let clashes = |scope: &flockd::scope::Scope| scope.covers(&link.wants) || link.wants.covers(scope);
        let is_behind = if link.held {
            locks.iter().any(|lock| lock.ask.who.agent == link.behind && clashes(&lock.ask.target.scope))
        } else {
            let until = if n == 0 { WaiterId(u64::MAX) } else { own[0].id };
            asks.clone().any(|w| w.id < until && w.ask.who.agent == link.behind && clashes(&w.ask.target.scope))
        };
        assert!(is_behind, "{link:?} is no wait");
    }
}

#[test]
fn two_who_want_each_others_lock_are_told_and_the_first_goes_on_when_the_second_lets_go() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /a");
    desk.ask("bo", "x /b");
    assert_eq!(desk.wait("ada", "x /b"), "waits");
    assert_eq!(desk.wait("bo", "x /a"), "deadlock bo > ada");
    assert_eq!(desk.ask("bo", "x /a"), "held by ada", "a try waits for nobody");
    desk.unlock("bo", "all");
    assert_eq!(desk.news(), ["ada: granted"]);
}

#[test]
fn a_cycle_through_the_queue_is_found() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /a");
    desk.ask("bo", "x /b");
    assert_eq!(desk.wait("cy", "x /a"), "waits");
    assert_eq!(desk.wait("ada", "x /b"), "waits");
    // bo would wait behind cy, who waits for ada, who waits for bo.
    assert_eq!(desk.wait("bo", "s /a"), "deadlock bo > cy > ada");
}

#[test]
fn library_sessions_of_one_agent_are_actors_of_their_own() {
    let mut desk = Desk::new();
    desk.ask("ada#1", "x /a");
    desk.ask("bo", "x /b");
    assert_eq!(desk.wait("ada#2", "x /b"), "waits");
    assert_eq!(desk.wait("bo", "x /a"), "waits", "ada's other session may let go of it");
    assert_eq!(desk.wait("ada#1", "x /b"), "deadlock ada > bo");
}
