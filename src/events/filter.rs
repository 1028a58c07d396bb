//! Which events a subscriber wants: by name, scope, agent and workspace.

use crate::model::{Agent, Event, EventKind};
use crate::scope::Target;

/// What is wanted. Each list narrows; an empty one does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Names of events, as [`EventKind::name`] gives them.
    pub names: Vec<&'static str>,
    /// Scopes that the lock of the event must meet: the rule by which locks do.
    pub targets: Vec<Target>,
    /// Whose lock it is, or who waits for it.
    pub agents: Vec<Agent>,
    /// Ids of the workspaces in which the lock was asked for, `ws_…`.
    pub workspaces: Vec<String>,
}

impl Filter {
    /// Whether an event is wanted.
    pub fn wants(&self, event: &Event) -> bool {
        let is_named = self.names.is_empty() || self.names.contains(&event.kind.name());
        is_named
            && (self.agents.is_empty() || self.agents.iter().any(|agent| concerns(event, agent)))
            && (self.workspaces.is_empty() || self.workspaces.contains(&event.ask.workspace.id()))
            && (self.targets.is_empty() || self.targets.iter().any(|target| target.meets(&event.ask.target)))
    }
}

fn concerns(event: &Event, agent: &Agent) -> bool {
    let waits = matches!(&event.kind, EventKind::Waiting { waiter } if waiter == agent);
    waits || event.ask.who.agent == *agent
}

#[cfg(test)]
mod tests {
    use super::super::tests::{event, file};
    use super::*;
    use crate::model::{EndReason, Workspace, resource};
    use crate::pattern::Pattern;
    use crate::scope::Scope;

    fn tree(path: &str) -> Scope {
        Scope::Subtree(path.as_bytes().into())
    }

    fn targets(scope: Scope) -> Filter {
        Filter { targets: vec![Target::named(scope)], ..Filter::default() }
    }

    #[test]
    fn nothing_said_wants_everything() {
        assert!(Filter::default().wants(&event(1, "/w/a")));
    }

    #[test]
    fn each_list_narrows() {
        let told = event(1, "/w/a");
        let agent = |name| Agent::new(name).unwrap();
        let by_agent = |name| Filter { agents: vec![agent("other"), agent(name)], ..Filter::default() };
        assert!(by_agent("claw-1").wants(&told) && !by_agent("claw-2").wants(&told));
        let by_name = |name| Filter { names: vec![name], ..Filter::default() };
        assert!(by_name("lock.acquired").wants(&told) && !by_name("lock.released").wants(&told));
        let by_workspace =
            |root: &[u8]| Filter { workspaces: vec![Workspace { root: root.into() }.id()], ..Filter::default() };
        assert!(by_workspace(b"/w").wants(&told) && !by_workspace(b"/v").wants(&told));
        let both = Filter { names: vec!["lock.released"], ..by_agent("claw-1") };
        assert!(!both.wants(&told));
        let released = Event { kind: EventKind::Released(EndReason::Expired), ..told };
        assert!(both.wants(&released));
    }

    #[test]
    fn whoever_waits_is_concerned_as_the_holder_is() {
        let waits = Event { kind: EventKind::Waiting { waiter: Agent::new("claw-2").unwrap() }, ..event(1, "/w/a") };
        for name in ["claw-1", "claw-2"] {
            assert!(Filter { agents: vec![Agent::new(name).unwrap()], ..Filter::default() }.wants(&waits), "{name}");
        }
    }

    #[test]
    fn a_scope_wants_what_it_has_a_file_in_common_with() {
        let told = event(1, "/w/src/a.rs");
        let pattern = |rest: &str| Scope::Pattern(Pattern::new(b"/w", rest.as_bytes()).unwrap());
        let below = [tree("/w"), tree("/w/src"), tree("/"), file("/w/src/a.rs"), file("/w/src"), pattern("**/*.rs")];
        for scope in below {
            assert!(targets(scope.clone()).wants(&told), "{scope}");
        }
        for scope in [tree("/w/sr"), file("/w/src/b.rs"), pattern("*.rs"), resource("w").unwrap()] {
            assert!(!targets(scope.clone()).wants(&told), "{scope}");
        }
    }
}
