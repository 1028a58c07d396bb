//! What hooks note of shell commands, where a shell is not told which of the session's agents runs it.
//!
//! The notes begin with the first sub-agent: without one, the name that shells have is right. What fails in here is
//! told where it makes a difference, and stands in the way of nothing else.

use super::event::Shell;
use super::locks::Ending;
use super::shell;
use crate::client::acting;
use crate::model::Agent;
use crate::os::commands::{Command, Commands, EXEC, Whose};
use crate::os::home::Home;
use crate::planted::{Bug, planted};

/// An agent whose commands are noted.
pub(super) struct Noted<'a> {
    /// The program, and its session, as it tells both to its shells.
    pub(super) program: &'a str,
    pub(super) session: &'a str,
    /// The agent of the session, whose name its shells have.
    pub(super) head: &'a Agent,
    /// Whether that name was given to the program.
    pub(super) is_given: bool,
    /// Whoever acts: that one, or one below it.
    pub(super) agent: &'a Agent,
}

impl Noted<'_> {
    /// A sub-agent begins; what the session's own agent runs from now on has to be told from what that runs.
    pub(super) fn make(&self) -> Result<(), String> {
        let home = Home::from_env().map_err(|error| error.0)?;
        let made = Commands::of(&home, self.head).and_then(|commands| commands.make(&home));
        made.map_err(|error| self.unnoted(&error))
    }

    /// It is going to run this.
    pub(super) fn begins(&self, command: &Shell) -> Result<(), String> {
        if self.agent != self.head {
            self.make()?;
        }
        let noted = self.commands()?.begins(self.agent, &command.noted(), self.is_given);
        noted.map_err(|error| self.unnoted(&error))
    }

    /// It has run, or will not. Where that cannot be noted, somebody who runs the same may be asked who they are.
    pub(super) fn ended(&self, command: &Shell) -> Result<(), String> {
        if planted(Bug::CommandNeverEnds) {
            return Ok(());
        }
        let (commands, command) = (self.commands()?, command.noted());
        let Some(notes) = commands.read().map_err(|error| self.unnoted(&error))? else { return Ok(()) };
        let left = acting::left_by(self.program, self.session, self.agent, &command, &notes);
        commands.ended(self.agent, &command, &left).map_err(|error| self.unnoted(&error))
    }

    /// What has not begun to run until this ends does not.
    pub(super) fn all_ended(&self, ending: Ending) -> Result<(), String> {
        let whose = if ending == Ending::Turn { Whose::Agent } else { Whose::Family };
        self.commands()?.all_ended(self.agent, whose).map_err(|error| self.unnoted(&error))
    }

    fn commands(&self) -> Result<Commands, String> {
        let home = Home::from_env().map_err(|error| error.0)?;
        Commands::of(&home, self.head).map_err(|error| self.unnoted(&error))
    }

    fn unnoted(&self, error: &std::io::Error) -> String {
        format!("what {} runs cannot be noted, so `flockd` in it acts as {}: {error}", self.agent, self.head)
    }
}

impl Shell {
    fn noted(&self) -> Command {
        let mut texts = vec![self.text.as_str()];
        texts.extend(shell::replaces_itself(&self.text).then_some(EXEC));
        Command::new(&texts, self.id.as_deref())
    }
}
