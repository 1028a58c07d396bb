//! Which live agent processes say which name: two of one name share their locks, mostly by accident, and are told so.

use crate::limits;
use crate::model::{Agent, Moment, Process};
use std::collections::{BTreeMap, HashMap};

/// The names that agent processes have called under, with when each last did. Gone with the process; not kept over a
/// restart, since the next calls say it again.
#[derive(Default)]
pub(super) struct Agents {
    names: BTreeMap<Process, HashMap<Agent, Moment>>,
    /// The one by which a process goes where it matters which: it was said of it last.
    goes_by: BTreeMap<Process, Agent>,
}

impl Agents {
    /// An agent process calls under a name; answers with another one that did so lately.
    pub(super) fn says(&mut self, process: Process, agent: &Agent, now: Moment) -> Option<Process> {
        let own = self.names.entry(process).or_default();
        if own.len() < limits::NAMES_OF_PROCESS || own.contains_key(agent) {
            own.insert(agent.clone(), now);
        }
        let lately = |said: &Moment| said.after(limits::TTL_ONE_SHOT) >= now;
        let mut others = self.names.iter().filter(|(other, _)| **other != process);
        others.find(|(_, names)| names.get(agent).is_some_and(lately)).map(|(other, _)| *other)
    }

    /// A process goes by this name from now on.
    pub(super) fn goes_by(&mut self, process: Process, agent: &Agent) {
        self.goes_by.insert(process, agent.clone());
    }

    /// The name by which it goes, if somebody has said so.
    pub(super) fn name_of(&self, process: Process) -> Option<&Agent> {
        self.goes_by.get(&process)
    }

    /// A process has ended.
    pub(super) fn gone(&mut self, process: Process) {
        self.names.remove(&process);
        self.goes_by.remove(&process);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_two_live_processes_say_is_told_until_one_ends_or_stops_to_say_it() {
        let (ada, bo) = (Agent::new("ada").unwrap(), Agent::new("bo").unwrap());
        let (one, two) = (Process { pid: 1, start: 1 }, Process { pid: 1, start: 2 });
        let mut agents = Agents::default();
        assert_eq!(agents.says(one, &ada, Moment(0)), None);
        assert_eq!(agents.says(one, &ada, Moment(1)), None, "once more the same");
        assert_eq!(agents.says(two, &bo, Moment(2)), None);
        assert_eq!(agents.says(two, &ada, Moment(3)), Some(one));
        let later = Moment(2).after(limits::TTL_ONE_SHOT);
        assert_eq!(agents.says(two, &ada, later), None, "the first has long been silent");
        assert_eq!(agents.says(one, &ada, later), Some(two));
        agents.gone(two);
        assert_eq!(agents.says(one, &ada, later), None);
    }

    #[test]
    fn a_process_goes_by_what_was_said_last_until_it_ends() {
        let (ada, bo) = (Agent::new("ada").unwrap(), Agent::new("bo").unwrap());
        let (one, two) = (Process { pid: 1, start: 1 }, Process { pid: 1, start: 2 });
        let mut agents = Agents::default();
        agents.says(one, &ada, Moment(0));
        assert_eq!(agents.name_of(one), None, "whoever calls under a name says nothing about others");
        agents.goes_by(one, &ada);
        agents.goes_by(one, &bo);
        assert_eq!((agents.name_of(one), agents.name_of(two)), (Some(&bo), None));
        agents.gone(one);
        assert_eq!(agents.name_of(one), None);
    }

    #[test]
    fn a_process_of_many_names_does_not_make_the_table_grow() {
        let mut agents = Agents::default();
        let process = Process { pid: 1, start: 1 };
        for number in 0..4 * limits::NAMES_OF_PROCESS {
            agents.says(process, &Agent::new(&format!("a{number}")).unwrap(), Moment(0));
        }
        assert_eq!(agents.names[&process].len(), limits::NAMES_OF_PROCESS);
    }
}
