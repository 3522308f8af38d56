//! The only way to the engine thread: commands in, events out.
//!
//! Owns the thread's start and the cached status. No engine type crosses it. Nothing here waits for
//! the thread.

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use crate::limits;
use ingle_engine::cores::Cores;
use ingle_engine::counters::EngineCounters;
use ingle_engine::engines::Engines;
use ingle_engine::settings::EngineSettings;
use ingle_protocol::wire::status::Phase;
use tokio::sync::{oneshot, watch};

use crate::command::Command;
use crate::command::EngineExit;
use crate::crash_journal::CrashJournal;
use crate::error::EngineFailure;
use crate::memory::MemoryOptions;
use crate::stall::StallAlarm;
use crate::status::{EngineStatus, StatusCell};
use crate::thread::Worker;

/// Commands to the engine thread, and its cached status.
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
    /// The receiver resolves when the thread has ended, however it ended.
    ///
    /// # Errors
    /// When the system gives no thread.
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
        let (worker_status, worker_cores) = (status.clone(), cores.clone());
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let exit = Worker::run_thread(
                inbox,
                worker_status,
                engines,
                settings,
                memory,
                worker_cores,
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
    /// [`EngineFailure::ThreadEnded`] when there is no thread; [`EngineFailure::Stalled`] when it
    /// stands still.
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

    /// What the thread does, and when it last said so.
    #[must_use]
    pub fn heartbeat(&self) -> (Phase, Instant) {
        self.status.heartbeat()
    }

    /// Where a stall of the thread becomes known.
    #[must_use]
    pub fn alarm(&self) -> &StallAlarm {
        &self.alarm
    }

    /// What the thread counts.
    #[must_use]
    pub fn counters(&self) -> &EngineCounters {
        self.status.counters()
    }

    /// The cores that the thread shares with work beside it.
    #[must_use]
    pub fn cores(&self) -> Cores {
        self.cores.clone()
    }

    /// The thread's status at its last heartbeat.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        self.status.read()
    }

    /// Changes whenever a model comes into memory, begins to, or leaves it, and at every
    /// [`Self::announce_models`].
    #[must_use]
    pub fn model_changes(&self) -> watch::Receiver<u64> {
        self.status.changes()
    }

    /// Tells whoever follows the models that there is another one on disk.
    pub fn announce_models(&self) {
        self.status.announce();
    }
}
