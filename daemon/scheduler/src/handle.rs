//! The engine handle: sends commands to the engine thread and reads its cached status.
//!
//! Owns the start of the thread. It is the only way to the thread. No compute type crosses it, and
//! nothing here waits for the thread.

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use crate::limits;
use ingle_engine::cores::Cores;
use ingle_engine::counters::EngineCounters;
use ingle_engine::engines::Engines;
use ingle_engine::settings::EngineSettings;
use ingle_protocol::wire::status::Phase;
use tokio::sync::{oneshot, watch};

use crate::command::{Command, EngineExit};
use crate::crash_journal::CrashJournal;
use crate::error::EngineFailure;
use crate::memory::MemoryOptions;
use crate::stall_alarm::StallAlarm;
use crate::status::{EngineStatus, StatusCell};
use crate::thread::Scheduler;

/// Sends commands to the engine thread and reads its status. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    commands: SyncSender<Command>,
    status: StatusCell,
    cores: Cores,
    alarm: StallAlarm,
}

impl EngineHandle {
    /// Starts the engine thread.
    ///
    /// The receiver resolves when the thread has ended, for whatever reason.
    ///
    /// # Errors
    /// When the operating system cannot start the thread.
    pub fn spawn(
        engines: Engines,
        settings: EngineSettings,
        memory: MemoryOptions,
        journal: CrashJournal,
    ) -> std::io::Result<(Self, oneshot::Receiver<EngineExit>)> {
        let (commands, inbox) = sync_channel(limits::ENGINE_COMMANDS);
        let status = StatusCell::new(Instant::now());
        let (exit_tx, exit_rx) = oneshot::channel();
        let cores = Cores::default();
        let (thread_status, thread_cores) = (status.clone(), cores.clone());
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let exit = Scheduler::run_thread(
                inbox,
                thread_status,
                engines,
                settings,
                memory,
                thread_cores,
                journal,
            );
            // The daemon may be gone already.
            let _ = exit_tx.send(exit);
        })?;
        let alarm = StallAlarm::default();
        Ok((Self { commands, status, cores, alarm }, exit_rx))
    }

    /// Queues a command, or refuses it at once.
    ///
    /// # Errors
    /// [`EngineFailure::Overloaded`] when the thread's inbox is full;
    /// [`EngineFailure::ThreadEnded`] when the thread has ended; [`EngineFailure::Stalled`] when it
    /// does not respond.
    pub fn send(&self, command: Command) -> Result<(), EngineFailure> {
        if let Some(stalled) = self.alarm.failure() {
            return Err(stalled);
        }
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => EngineFailure::Overloaded {
                waiting: limits::ENGINE_COMMANDS,
                what: "commands to the engine",
            },
            TrySendError::Disconnected(_) => EngineFailure::ThreadEnded,
        })
    }

    /// The thread's phase and the time of its last heartbeat.
    #[must_use]
    pub fn heartbeat(&self) -> (Phase, Instant) {
        self.status.heartbeat()
    }

    /// The alarm that reports a stall of the thread.
    #[must_use]
    pub fn alarm(&self) -> &StallAlarm {
        &self.alarm
    }

    /// The thread's counters.
    #[must_use]
    pub fn counters(&self) -> &EngineCounters {
        self.status.counters()
    }

    /// The cores that the thread shares with other work of the daemon.
    #[must_use]
    pub fn cores(&self) -> Cores {
        self.cores.clone()
    }

    /// The thread's status at its last heartbeat.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        self.status.read()
    }

    /// Changes when a model is loaded, starts to load or is unloaded.
    ///
    /// Also changes at every [`Self::announce_models`].
    #[must_use]
    pub fn model_changes(&self) -> watch::Receiver<u64> {
        self.status.changes()
    }

    /// Announces that the models on disk have changed.
    pub fn announce_models(&self) {
        self.status.announce();
    }
}
