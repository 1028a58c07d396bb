//! Faults on purpose, each of one rule, and which test must notice: what no test catches is not tested.
//!
//! In every ordinary build [`planted`] is a constant `false` and nothing of this is left. A build with `--cfg planted`
//! has all of them, and `FLOCKD_PLANT=ReadersBarge` in its environment switches one on. `tests/planted.rs` does that
//! for each row; `just planted` runs it.

/// A fault and the tests that must fail with it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Which one.
    pub bug: Bug,
    /// Its name, as in `FLOCKD_PLANT`.
    pub name: &'static str,
    /// Target of the tests: `lib` or a file or folder of `tests/`.
    pub target: &'static str,
    /// A test there.
    pub test: &'static str,
}

macro_rules! bugs {
    ($($(#[$what:meta])* $bug:ident => $target:literal $test:literal,)*) => {
        /// The faults, by the rule that each breaks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$what])* $bug,)*
        }

        /// All of them.
        pub const ALL: &[Row] =
            &[$(Row { bug: Bug::$bug, name: stringify!($bug), target: $target, test: $test },)*];
    };
}

bugs! {
    // Who excludes whom
    /// A reader is granted past a writer that waits.
    ReadersBarge => "table" "rules::a_reader_does_not_overtake_a_writer_that_waits",
    /// The name `ab` counts as lying in the directory `a`.
    NamesakeCovered => "lib" "scope::tests::a_subtree_covers_itself_and_what_lies_below_and_no_namesake",
    /// A directory does not exclude what lies in it.
    BelowNotSeen => "table" "rules::a_subtree_excludes_what_lies_in_it_and_no_namesake",
    /// Two patterns overlap wherever their fixed parts do.
    PatternsByPrefix => "table" "commands::a_hundred_thousand_random_commands_end_as_in_the_naive_model",
    /// Two names of one file are two files.
    HardLinkNotSeen => "table" "rules::two_names_of_one_file_are_one_lock",
    /// A symbolic link on the way is taken for a name like any other.
    LinkNotFollowed => "lib" "os::paths::tests::links_in_the_middle_and_at_the_end_mean_what_they_lead_to",
    /// A second guard of one agent is let in beside the first.
    SecondSessionLetIn => "table" "rules::two_sessions_of_one_agent_exclude_each_other",
    // Advisory locks
    /// An advisory lock keeps an exclusive one waiting.
    AdvisoryKeepsOut => "table" "advisory::nobody_waits_for_an_advisory_lock",
    /// An advisory request waits for the holders of other locks.
    AdvisoryWaits => "table" "advisory::an_advisory_lock_is_granted_at_once_whatever_is_held_and_whoever_waits",
    /// An advisory request waits until a write of its own agent is over.
    AdvisoryPutOff => "table" "advisory::an_advisory_request_does_not_wait_for_a_write_of_its_own_agent",
    /// Whoever takes its advisory lock up again is ranked as if it had just come.
    RankLostByResume => "table" "advisory::the_rank_is_kept_when_a_new_session_takes_the_lock_up",
    /// The next leader is not told that it leads.
    LeaderNotTold => "table" "advisory::whoever_comes_to_lead_is_told_and_nobody_else",
    /// An advisory grant with a ttl waits for the disk.
    AdvisorySynced => "table" "advisory::an_advisory_grant_waits_for_no_disk",
    // The queue
    /// Whoever waits behind a lock that ends is not woken.
    WakeUpLost => "table" "rules::first_come_first_served",
    /// Whoever may take up what is its own is woken only where the line comes to it.
    OwnNotWoken => "table"
        "writes::whoever_takes_up_what_is_its_own_is_woken_by_the_end_of_a_parents_write_wherever_it_stands_in_line",
    /// A cancelled request stays in line: it keeps others out and is granted late.
    CancelledStaysInLine => "table" "rules::a_cancelled_request_leaves_no_holder_no_place_and_no_late_grant",
    /// A waiter that comes back after a restart goes to the end of the line.
    PlaceLostByRestart => "table" "commands::a_hundred_thousand_random_commands_end_as_in_the_naive_model",
    /// Whoever is away after a restart counts as waiting: others are refused for a cycle that is none.
    AbsentClosesCycle => "table" "commands::a_hundred_thousand_random_commands_end_as_in_the_naive_model",
    /// Whoever waits behind a kept place waits for its agent, which is not there.
    AbsentWaitedFor => "table" "tickets::who_is_behind_a_kept_place_does_not_wait_for_its_agent",
    /// Whoever comes back and is granted at once closes no cycle of waits.
    ReturnClosesNoCycle => "table" "tickets::who_comes_back_while_it_waits_for_those_behind_its_place_is_refused",
    /// Whoever asks again after a wait in vain goes to the end of the line.
    TicketLosesPlace => "table" "tickets::asking_again_goes_on_in_the_place_that_was_kept",
    /// Whoever asks again and is cut off loses the place that was kept for it.
    CutOffLosesPlace => "table" "tickets::who_asks_again_and_is_cut_off_keeps_the_place",
    /// Whoever is granted what its place was kept for, and never hears of it, has lost the place.
    UnheardLosesPlace => "table" "tickets::what_a_place_became_that_nobody_heard_of_is_that_place_again",
    /// Another name of a file is another thing to whoever has a place for it.
    PlaceOfOneName => "table" "tickets::a_place_is_found_under_every_name_of_the_file",
    /// A kept place whose turn has come keeps the next one waiting for as long as it is kept.
    OfferNeverPassedOn => "table" "tickets::an_offer_that_nobody_comes_for_is_passed_on_after_30_seconds",
    /// A place that its agent's own lock makes needless keeps others waiting.
    NeedlessPlaceKept => "table" "tickets::a_place_beside_a_weaker_lock_of_its_agent_is_in_nobodys_way",
    /// A kept place is not looked at again when the lock is another's to take up that its agent had there.
    PlaceNotLookedAt => "table"
        "tickets::a_place_is_offered_when_its_agents_lock_there_is_no_longer_its_own_to_take_up",
    /// An offer stays though its request is behind others after a restart.
    OfferOutlivesLevel => "table" "tickets::an_offer_does_not_outlive_the_level_that_it_was_made_for",
    /// A kept place is offered while nobody could be granted it.
    OfferedWhileStopped => "table" "tickets::nothing_is_offered_while_grants_are_stopped",
    /// The search for cycles sees holders and not the requests that come before.
    QueueClosesNoCycle => "table" "deadlock::a_cycle_through_the_queue_is_found",
    // Contention
    /// A contended scope is told at every request.
    ContentionFlood => "table" "contention::it_is_told_once_a_window_however_many_come",
    /// A request whose step was taken back counts all the same.
    ContentionCountedThoughUndone => "table" "contention::what_is_taken_back_was_never_counted",
    /// Of too many workspaces that say what counts as contended, the one used last is forgotten.
    WorkspaceInUseForgotten => "table" "contention::an_unused_workspace_is_forgotten_before_one_in_use",
    // Writes around the locks
    /// Whoever holds a file exclusively writes around its own lock.
    HolderViolates => "table" "violation::who_holds_it_exclusively_may_write",
    /// What is seen of a write after its holder has released is a violation of the next one's lock.
    LateWriteIsViolation => "table" "violation::a_write_that_is_seen_after_the_release_was_the_holders",
    /// Whoever writes all the time is told all the time.
    ViolationFlood => "table" "violation::a_lock_is_told_once_a_window_however_much_is_written",
    /// A violation whose step was taken back counts as told.
    ViolationToldThoughUndone => "table" "violation::what_is_taken_back_was_never_told",
    /// A file that is written all the time fills the memory of what was seen.
    SeenAgainAndAgain => "lib" "os::watcher::tests::a_file_is_seen_once_until_that_is_taken",
    /// A directory that moved away keeps its watch under the old name.
    MovedWatchKept => "cli" "violations::a_directory_that_moved_away_is_not_taken_for_the_one_made_anew",
    /// Why not all is seen is told once in the life of a daemon.
    TroubleToldOnce => "lib" "os::watcher::tests::what_is_lost_is_told_once_a_burst_and_counted",
    // Sets
    /// A set is granted as soon as its first scope is free.
    SetByItsFirst => "table" "sets::a_set_is_granted_when_all_of_it_is_free_and_not_before",
    /// A set is as far in front as the scope of it that is most so.
    SetByItsDeepest => "table" "sets::a_set_is_no_further_in_front_than_the_least_of_its_scopes",
    /// One scope of a set that is cancelled stays in line.
    SetLeavesRow => "table" "sets::a_set_that_goes_leaves_no_row_and_no_flock_behind",
    /// A set keeps the flocks that it has while a foreign program keeps it waiting for another.
    SetKeepsFlocks => "table" "flocks::while_a_foreigner_has_one_file_of_a_set_no_flock_of_it_is_kept",
    // Sub-agents
    /// A parent's lock keeps its sub-agents out like anybody.
    ParentKeepsChildOut => "table" "families::a_sub_agent_takes_what_its_parent_holds_and_strangers_stay_out",
    /// A parent writes where its sub-agent holds something.
    ParentWritesOverChild => "table" "families::the_parent_writes_again_when_the_child_has_released",
    /// A request inside a parent's lock waits behind strangers who wait for the parent.
    ChildBehindStrangers => "table" "families::a_child_comes_before_strangers_who_wait_for_its_parent",
    /// Whoever passes others in line closes no cycle of waits.
    PassedCloseNoCycle => "table" "families::who_passes_others_in_line_closes_no_cycle_of_waits",
    // Holding and ending
    /// A lease runs while its session lives.
    ExpiryWhileAttached => "table" "rules::without_a_lease_the_end_of_the_session_frees_and_with_one_it_detaches",
    /// A renewed lease gets what was left of the old one on top.
    LeaseAddedUp => "table" "rules::what_an_agent_holds_answers_it_and_its_lease_starts_anew_and_is_never_added_up",
    /// A one-shot is held for as long as it is renewed.
    MaxHoldIgnored => "table" "rules::however_often_it_is_renewed_a_one_shot_ends_after_max_hold",
    /// A dead process keeps what hangs on it.
    DeadKeepsLock => "table" "rules::a_lock_ends_with_the_process_that_it_is_bound_to_whatever_is_left_of_its_lease",
    /// A process is known by its number alone.
    NumberIsProcess => "lib" "os::process::tests::a_number_with_another_start_is_another_process",
    /// What was put off is granted for a process that has ended meanwhile.
    PutOffForDead => "table" "writes::nothing_is_granted_for_a_process_that_ends_while_a_write_holds_its_request_up",
    /// A lock without ttl survives a reboot.
    RebootKeepsAll => "table" "rules::after_a_reboot_what_hung_on_a_process_is_void_and_the_rest_has_its_full_lease",
    /// Any agent releases a lock by naming its scope.
    AnybodyReleases => "table" "rules::nobody_releases_anothers_lock",
    /// The place of a request is kept whose lock would have ended with the process that asked.
    PlaceKeptForTheDead => "table" "tickets::no_place_is_kept_for_a_lock_that_ends_with_the_process_that_asks",
    /// A lock is broken without a reason.
    BreakWithoutReason => "wire" "lines::unknown_operations_fields_and_values_are_refused_by_name",
    /// Whose lock was broken, or ran out, does not hear of it.
    LossNotTold => "table" "rules::breaking_needs_the_exact_id_and_the_holder_is_told_once",
    /// Whoever asks for news hears of those who wait for the first few of its locks.
    NewsOfFewLocks => "table" "rules::news_tell_all_losses_a_part_at_a_time_and_who_waits_for_any_lock",
    /// A client that says which losses it has heard of is told of them again.
    HeardIsNotTold => "table" "rules::a_loss_counts_as_told_when_its_own_agent_says_that_it_has_heard_of_it",
    /// A loss counts as told when it was sent to a client that is to say itself what it has heard.
    SentIsHeard => "wire" "sessions::whoever_says_itself_what_it_has_heard_is_told_until_it_does",
    /// An upgrade that was asked for by another name of the file tells only what was lost under the name of the lock.
    UpgradeForgetsName => "table"
        "upgrade::an_upgrade_asked_for_by_another_name_tells_what_was_lost_under_that_at_once_or_after_a_wait",
    /// A lock is taken up again with the fence that it had.
    ResumedWithOldFence => "table" "rules::a_new_session_takes_a_detached_lock_up_with_a_new_fence",
    /// An agent that has what a sub-agent holds something in is not told of it.
    SubAgentNotNamed => "table" "families::a_parent_is_told_what_its_sub_agents_hold_in_what_it_has",
    /// What a one-shot had ends with the session that has taken it up.
    LoanNotReturned => "table" "rules::what_a_one_shot_had_goes_back_to_its_agent_when_a_session_is_done_with_it",
    /// A retry of a granted request is granted anew.
    RetryGrantedTwice => "table" "rules::a_retry_gets_the_same_grant_and_other_parameters_are_invalid",
    /// A retry is held against the ttl that its lock was renewed with.
    RenewalForgetsRequest => "table" "rules::a_retry_is_held_against_what_was_asked_whatever_the_lock_was_renewed_with",
    /// `check` does not look at the fence.
    CheckIgnoresFence => "table" "commands::a_hundred_thousand_random_commands_end_as_in_the_naive_model",
    /// Anybody who knows a session's id returns to it.
    SecretNotAsked => "wire" "sessions::only_the_right_secret_returns_to_a_session",
    // Writing through the daemon
    /// A write under a fence is let through under any lock of its agent.
    CommitIgnoresFence => "table" "commands::a_hundred_thousand_random_commands_end_as_in_the_naive_model",
    /// A lock ends while a file is being put in place under it.
    CommitCutShort => "table" "commands::a_hundred_thousand_random_commands_end_as_in_the_naive_model",
    /// A file that has changed since it was read is overwritten.
    StaleOverwrite => "cli" "write::a_stale_overwrite_is_refused_and_the_hash_that_is_there_is_named",
    /// A prepared file that is still open for writing is put in place.
    OpenFilePutInPlace => "lib"
        "os::commit::tests::a_file_that_is_still_open_for_writing_is_not_put_in_place_and_a_closed_one_is",
    /// What is held at a place still means the file that was there before a write.
    LockKeepsOldFile => "table" "writes::a_lock_means_the_file_that_was_put_in_its_place",
    /// A scope of a set that a lock of its agent answers counts as a wait.
    OwnLockClosesCycle => "table" "sets::a_set_waits_only_for_what_its_agent_does_not_hold",
    // The system's flocks
    /// No flock is taken.
    FlockNotTaken => "table" "flocks::a_lock_is_granted_only_when_its_flock_is_held",
    /// The flock of a request that went meanwhile is kept.
    FlockLeftBehind => "table" "flocks::who_goes_while_the_system_is_asked_leaves_nothing_behind",
    /// What a flock was asked for is granted without another look at who holds it by now.
    LateFlockGrants => "table"
        "flocks::a_try_that_its_own_agent_has_passed_meanwhile_is_refused_and_does_not_begin_to_wait",
    /// A flock is let go before the next lock has it.
    FlockGap => "flock" "foreign::what_one_of_ours_lets_go_passes_to_the_next_without_a_gap",
    // The journal
    /// A grant that outlives its holder is told before it is synced.
    AnsweredBeforeSync => "journal" "service::after_a_failed_sync_and_a_power_cut_every_answered_grant_is_there",
    /// A batch that could not be written is not undone.
    FailedBatchKept => "journal"
        "service::whichever_write_or_sync_fails_grants_stop_and_come_back_and_no_fence_repeats",
    /// Fences are given out without being reserved.
    FenceNotReserved => "table" "commands::a_hundred_thousand_random_commands_end_as_in_the_naive_model",
    /// The fences file is written and never read.
    FencesFileIgnored => "journal" "damage::no_fence_is_given_out_twice_whatever_happens_to_the_journal",
    /// Two events have one number.
    EventNumberTwice => "table" "commands::a_hundred_thousand_random_commands_end_as_in_the_naive_model",
    /// A batch of the log is believed without its checksum.
    TornTailAccepted => "journal" "damage::a_torn_tail_is_cut_back_to_a_whole_batch_at_every_length",
    /// A store whose sync has failed is built upon as if all that it shows were on the disk.
    SuspectStoreKept => "journal" "power::after_failed_syncs_kills_and_a_power_cut_the_store_opens",
    // Statistics
    /// A batch that could not be written is counted all the same, and once more when it is carried out in memory.
    FailedBatchCounted => "journal"
        "service::whichever_write_or_sync_fails_grants_stop_and_come_back_and_no_fence_repeats",
    /// Figures of a name that makes way for another are forgotten.
    ColdStatsLost => "lib" "stats::hottest::tests::the_sum_is_exact_however_many_names_come_by",
    /// A request that only the system is asked for counts as one that waited.
    FlockCountedAsWait => "cli" "stats::what_has_happened_is_counted_once",
    // Webhooks
    /// A gap says how many events are missing while that is known, and not after a restart.
    GapCounted => "webhooks" "endings::what_is_missing_is_told_with_the_same_id_and_body_also_after_a_kill",
    /// A post that failed is left out, and the next one is sent.
    FailedPostLeftOut => "sim" "whatever_happens_every_promise_is_kept",
    /// The post of a webhook that was removed counts no more.
    RemovedPostUncounted => "webhooks" "delivery::posts_of_removed_webhooks_count_until_they_end",
    /// A webhook is given up without a word to anybody.
    DisabledUntold => "table" "webhooks::one_that_is_given_up_is_told_to_the_others_once",
    /// A webhook is told that it is given up itself.
    DisabledToldToItself => "lib" "events::filter::tests::a_webhook_hears_of_others_and_not_of_itself",
    // Answers
    /// A grant that nobody has heard of stays when its connection goes.
    UnheardGrantKept => "sim" "whatever_happens_every_promise_is_kept",
    /// A loss counts as told when it is put on its way.
    LossToldTooEarly => "sim" "whatever_happens_every_promise_is_kept",
    // Leading
    /// Whoever guards the command of an `elect` does not look whether it leads.
    GuardLooksAway => "cli" "elect::a_command_of_a_killed_candidate_leads_on_and_is_ended_when_it_does_not",
    // Hooks
    /// A hook answers when the client has stopped to listen.
    HookAnswersLate => "hooks" "failures::a_daemon_that_hangs_is_answered_for_before_the_clients_time_is_up",
    /// What fails inside a hook lets the edit pass in a strict workspace as well.
    StrictnessForgotten => "hooks" "failures::without_a_daemon_the_tool_runs_and_it_is_told",
    /// What a hook took stays when the turn ends.
    TurnEndsNothing => "hooks"
        "turns::an_edit_takes_the_lock_and_another_agents_edit_is_refused_until_the_turn_ends",
    /// What a command has on loan is released over its head when the turn ends.
    LoanTakenAway => "hooks" "turns::what_a_command_still_has_at_the_end_of_the_turn_ends_with_the_command",
    /// What was taken for an edit that does not happen is kept.
    HalfAnEditKept => "hooks" "turns::a_patch_is_granted_as_a_whole_or_not_at_all",
    /// Who lost the lock of what it is going to write is not kept from it.
    StaleEditPasses => "hooks" "turns::a_lost_lock_is_told_before_the_next_write",
    /// What a hook said counts as heard though it could not be written.
    SaidIsHeard => "hooks" "losses::a_loss_that_nobody_could_read_is_told_again",
    /// What a client shows to the person alone counts as told to the model.
    PersonIsModel => "hooks" "losses::what_only_the_person_was_shown_is_told_to_the_model_when_a_turn_begins",
    /// Sub-agents go by their parent's name.
    SubagentIsParent => "hooks" "turns::a_subagent_ends_with_its_own_locks_and_a_session_with_all",
    /// Nobody notes which command a sub-agent runs.
    CommandIsParents => "hooks" "commands::a_command_of_a_sub_agent_is_its_own_however_it_calls_us",
    /// Who runs a command is told by its text alone.
    TextTellsAll => "hooks" "commands::of_two_who_run_the_same_text_the_start_of_the_shell_tells_which",
    /// Whose processes a command has left is not remembered.
    LeftIsForgotten => "hooks" "commands::what_a_command_has_left_stays_its_agents_whatever_others_run",
    /// A command is never heard to have ended.
    CommandNeverEnds => "hooks" "commands::two_who_run_the_same_text_at_once_are_asked_to_say_who_they_are",
    /// Nobody tells the tools of an agent that its program has begun another session.
    SessionNotHandedOn => "mcp" "names::a_session_that_its_program_begins_later_is_its_agent_everywhere",
}

/// Whether this fault is planted: in an ordinary build none is.
#[cfg(not(planted))]
#[inline(always)]
pub const fn planted(_bug: Bug) -> bool {
    false
}

/// Whether this fault is the one that `FLOCKD_PLANT` names.
///
/// # Panics
/// If it names none.
#[cfg(planted)]
pub fn planted(bug: Bug) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let name = std::env::var("FLOCKD_PLANT").ok()?;
        let row = ALL.iter().find(|row| row.name == name);
        Some(row.unwrap_or_else(|| panic!("FLOCKD_PLANT={name} is no fault of src/planted.rs")).bug)
    });
    *chosen == Some(bug)
}
