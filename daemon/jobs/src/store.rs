//! The job store: an SQLite database on a thread of its own, which executes commands.
//!
//! Owns the thread, its commands, and their durability: creation and end are answered when they are
//! on disk, progress is written without waiting for the disk. Commands that arrive together share a
//! transaction. A store that cannot be opened answers every command with the reason, and the next
//! [`Store::open`] tries again; no file is deleted or renamed. Does not know the runs of jobs.

mod error;
mod rows;
mod schema;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::limits;
use ingle_protocol::wire::jobs::JobStatus;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

pub use self::error::StoreError;
use super::clock::{self, AgeClock};
use super::record::JobRecord;

/// The retention of ended jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Milliseconds of the store's age that they are kept (see [`AgeClock`]).
    pub ms: u64,
    /// The number that is kept.
    pub count: usize,
}

/// The unfinished jobs that an opened store had.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovery {
    /// Jobs that had not started when the last daemon ended, the oldest first.
    pub queued: Vec<JobRecord>,
    /// The number of jobs that were running, and are `interrupted` now.
    pub interrupted: usize,
}

type ReplySender<T> = oneshot::Sender<Result<T, StoreError>>;

/// A command to the thread.
#[derive(Debug)]
enum Command {
    Open(ReplySender<Recovery>),
    Insert(Box<JobRecord>, ReplySender<()>),
    /// Has no reply; the next one has newer figures.
    Progress(Box<JobRecord>),
    End(Box<JobRecord>, ReplySender<()>),
    Get(String, ReplySender<Option<JobRecord>>),
    List {
        status: Option<JobStatus>,
        limit: usize,
        done: ReplySender<Vec<JobRecord>>,
    },
    Delete(String, ReplySender<usize>),
    DeleteEnded(ReplySender<usize>),
    Sweep,
    Close(oneshot::Sender<()>),
}

/// A handle to the store's thread, which ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Store {
    commands: mpsc::Sender<Command>,
    path: PathBuf,
}

/// A permit to send one command.
#[derive(Debug)]
pub struct StorePermit<'a>(mpsc::Permit<'a, Command>);

impl StorePermit<'_> {
    /// Sends a new job; the receiver gets a value when it is on disk.
    pub fn insert(self, job: JobRecord) -> oneshot::Receiver<Result<(), StoreError>> {
        let (done, stored) = oneshot::channel();
        self.0.send(Command::Insert(Box::new(job), done));
        stored
    }
}

impl Store {
    /// Starts the thread. The file is opened by [`Store::open`].
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(path: PathBuf, retention: Retention) -> io::Result<Self> {
        let (commands, inbox) = mpsc::channel(limits::JOB_STORE_COMMANDS);
        let thread = StoreThread { path: path.clone(), retention, open: None };
        std::thread::Builder::new().name("job store".to_owned()).spawn(|| thread.run(inbox))?;
        Ok(Self { commands, path })
    }

    /// Opens the file unless it is open, and recovers the unfinished jobs in it.
    ///
    /// # Errors
    /// The reason why it cannot be opened.
    pub async fn open(&self) -> Result<Recovery, StoreError> {
        self.ask(Command::Open).await
    }

    /// Waits for a permit to send a command.
    ///
    /// # Errors
    /// When the thread has ended.
    pub async fn permit(&self) -> Result<StorePermit<'_>, StoreError> {
        self.commands.reserve().await.map(StorePermit).map_err(|_| self.ended())
    }

    /// Adds a job. When this returns, it is on disk.
    ///
    /// # Errors
    /// The reason why it is not.
    pub async fn insert(&self, job: JobRecord) -> Result<(), StoreError> {
        let stored = self.permit().await?.insert(job);
        stored.await.unwrap_or_else(|_| Err(self.ended()))
    }

    /// Writes a job's progress, unless the queue is full: then the next report does.
    pub fn progress(&self, job: JobRecord) {
        let _ = self.commands.try_send(Command::Progress(Box::new(job)));
    }

    /// Writes that a job runs; waits for the queue, because the next report may be long in coming.
    pub async fn started(&self, job: JobRecord) {
        let _ = self.commands.send(Command::Progress(Box::new(job))).await;
    }

    /// Writes a job's end. When this returns, it is on disk.
    ///
    /// # Errors
    /// The reason why it is not.
    pub async fn end(&self, job: JobRecord) -> Result<(), StoreError> {
        self.ask(|done| Command::End(Box::new(job), done)).await
    }

    /// Reads one job.
    ///
    /// # Errors
    /// The reason why it cannot be read.
    pub async fn get(&self, id: String) -> Result<Option<JobRecord>, StoreError> {
        self.ask(|done| Command::Get(id, done)).await
    }

    /// Reads jobs, the newest first, without their outcomes.
    ///
    /// # Errors
    /// The reason why they cannot be read.
    pub async fn list(
        &self,
        status: Option<JobStatus>,
        limit: usize,
    ) -> Result<Vec<JobRecord>, StoreError> {
        self.ask(|done| Command::List { status, limit, done }).await
    }

    /// Deletes a job that has ended, and gives the number of deleted jobs, 1 or 0.
    ///
    /// # Errors
    /// The reason why it cannot be deleted.
    pub async fn delete(&self, id: String) -> Result<usize, StoreError> {
        self.ask(|done| Command::Delete(id, done)).await
    }

    /// Deletes all jobs that have ended, and gives their number.
    ///
    /// # Errors
    /// The reason why they cannot be deleted.
    pub async fn delete_ended(&self) -> Result<usize, StoreError> {
        self.ask(Command::DeleteEnded).await
    }

    /// Cleans up by age and count; left to the next cleanup if the queue is full.
    pub fn sweep(&self) {
        let _ = self.commands.try_send(Command::Sweep);
    }

    /// Closes the file after all earlier commands. Every later command fails.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            // A thread that has ended has closed it.
            let _ = closed.await;
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(ReplySender<T>) -> Command,
    ) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(command(done)).await.map_err(|_| self.ended())?;
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }

    /// The error of a thread that did not answer in the time there was.
    #[must_use]
    pub fn late(&self) -> StoreError {
        let problem = "it did not answer in time".to_owned();
        StoreError::Failed { path: self.path.clone(), problem }
    }

    /// The error of a thread that has ended.
    #[must_use]
    pub fn ended(&self) -> StoreError {
        StoreError::ThreadEnded { path: self.path.clone() }
    }
}

/// The value of a command.
enum CommandValue {
    Nothing,
    Job(Option<Box<JobRecord>>),
    Jobs(Vec<JobRecord>),
    Count(usize),
}

impl Command {
    /// Whether its reply means that it is on disk.
    const fn is_durable(&self) -> bool {
        !matches!(self, Self::Progress(_) | Self::Get(..) | Self::List { .. })
    }

    fn apply(
        &self,
        connection: &Connection,
        age_ms: u64,
        retention: Retention,
    ) -> rusqlite::Result<CommandValue> {
        Ok(match self {
            Self::Open(_) | Self::Close(_) => CommandValue::Nothing,
            Self::Insert(job, _) => {
                rows::insert(connection, job)?;
                CommandValue::Nothing
            }
            Self::Progress(job) => {
                rows::progress(connection, job)?;
                CommandValue::Nothing
            }
            Self::End(job, _) => {
                rows::end(connection, job, age_ms)?;
                rows::sweep(connection, age_ms, retention.ms, retention.count)?;
                CommandValue::Nothing
            }
            Self::Get(id, _) => CommandValue::Job(rows::get(connection, id)?.map(Box::new)),
            Self::List { status, limit, .. } => {
                CommandValue::Jobs(rows::list(connection, *status, *limit)?)
            }
            Self::Delete(id, _) => CommandValue::Count(rows::delete(connection, id)?),
            Self::DeleteEnded(_) => CommandValue::Count(rows::delete_ended(connection)?),
            Self::Sweep => {
                CommandValue::Count(rows::sweep(connection, age_ms, retention.ms, retention.count)?)
            }
        })
    }

    /// Sends the reply; the receiver may be gone.
    fn reply(self, outcome: Result<CommandValue, StoreError>) {
        match (self, outcome) {
            (Self::Insert(_, done) | Self::End(_, done), outcome) => {
                let _ = done.send(outcome.map(drop));
            }
            (Self::Get(_, done), Ok(CommandValue::Job(job))) => {
                let _ = done.send(Ok(job.map(|job| *job)));
            }
            (Self::Get(_, done), Err(error)) => {
                let _ = done.send(Err(error));
            }
            (Self::List { done, .. }, Ok(CommandValue::Jobs(jobs))) => {
                let _ = done.send(Ok(jobs));
            }
            (Self::List { done, .. }, Err(error)) => {
                let _ = done.send(Err(error));
            }
            (Self::Delete(_, done) | Self::DeleteEnded(done), Ok(CommandValue::Count(count))) => {
                let _ = done.send(Ok(count));
            }
            (Self::Delete(_, done) | Self::DeleteEnded(done), Err(error)) => {
                let _ = done.send(Err(error));
            }
            (Self::Progress(_) | Self::Sweep, Err(error)) => {
                tracing::warn!(%error, "a job's progress was not stored");
            }
            _ => {}
        }
    }
}

/// The open file.
struct OpenStore {
    connection: Connection,
    age: AgeClock,
    /// The time of the last update of `age`.
    since: Instant,
    /// Whether a commit waits for the disk.
    is_synchronous: bool,
}

impl OpenStore {
    fn new(path: &Path) -> Result<Self, StoreError> {
        let connection = schema::open(path, schema::MIGRATIONS)?;
        let age = rows::age(&connection).map_err(|error| StoreError::sqlite(path, &error))?;
        let age = age.resumed(clock::unix_ms());
        Ok(Self { connection, age, since: Instant::now(), is_synchronous: true })
    }

    /// Recovers the unfinished jobs of the last daemon.
    ///
    /// A running job becomes interrupted and keeps its partial result; a queued job has done nothing
    /// yet and stays queued.
    fn recover(&mut self, retention: Retention) -> rusqlite::Result<Recovery> {
        let transaction = self.connection.transaction()?;
        let running = rows::all_of(&transaction, JobStatus::Running)?;
        let interrupted = running.len();
        for mut job in running {
            job.interrupt(clock::unix_ms());
            rows::end(&transaction, &job, self.age.age_ms)?;
        }
        let queued = rows::all_of(&transaction, JobStatus::Queued)?;
        rows::set_age(&transaction, self.age)?;
        rows::sweep(&transaction, self.age.age_ms, retention.ms, retention.count)?;
        transaction.commit()?;
        Ok(Recovery { queued, interrupted })
    }

    /// Updates the store's age.
    fn tick(&mut self) {
        let elapsed_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since = Instant::now();
        self.age = self.age.advanced(elapsed_ms, clock::unix_ms());
    }

    /// Executes all of `commands` in one transaction, or none of them.
    fn transact(
        &mut self,
        commands: &[Command],
        retention: Retention,
    ) -> rusqlite::Result<Vec<CommandValue>> {
        self.tick();
        let is_synchronous = commands.iter().any(Command::is_durable);
        if is_synchronous != self.is_synchronous {
            let level = if is_synchronous { "FULL" } else { "NORMAL" };
            self.connection.execute_batch(&format!("PRAGMA synchronous = {level}"))?;
            self.is_synchronous = is_synchronous;
        }
        let transaction = self.connection.transaction()?;
        let apply = |command: &Command| command.apply(&transaction, self.age.age_ms, retention);
        let values = commands.iter().map(apply).collect::<rusqlite::Result<Vec<_>>>()?;
        if is_synchronous {
            rows::set_age(&transaction, self.age)?;
        }
        transaction.commit()?;
        if commands.iter().any(|command| matches!(command, Command::Sweep)) {
            // Returns the pages of deleted jobs; new jobs use them if that fails.
            let _ = rows::give_back(&self.connection);
        }
        Ok(values)
    }
}

struct StoreThread {
    path: PathBuf,
    retention: Retention,
    open: Option<OpenStore>,
}

impl StoreThread {
    fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut batch = Vec::new();
        while let Some(command) = inbox.blocking_recv() {
            let mut next = Some(command);
            while let Some(command) = next.take() {
                match command {
                    // Opening is not part of a transaction.
                    Command::Open(done) => {
                        self.execute(&mut batch);
                        // The receiver may be gone; the next call opens it then.
                        let _ = done.send(self.open());
                    }
                    Command::Close(done) => {
                        self.execute(&mut batch);
                        // SQLite moves the contents of its log into the file itself.
                        self.open = None;
                        let _ = done.send(());
                    }
                    command => batch.push(command),
                }
                if batch.len() < limits::JOB_STORE_BATCH {
                    next = inbox.try_recv().ok();
                }
            }
            self.execute(&mut batch);
        }
    }

    fn open(&mut self) -> Result<Recovery, StoreError> {
        if self.open.is_some() {
            return Ok(Recovery::default());
        }
        let mut open = OpenStore::new(&self.path)?;
        let recovered = open.recover(self.retention);
        let recovered = recovered.map_err(|error| StoreError::sqlite(&self.path, &error))?;
        self.open = Some(open);
        Ok(recovered)
    }

    /// Executes a batch in one transaction and replies when it is committed.
    ///
    /// If a command fails, each is executed in a transaction of its own, so that it fails alone.
    fn execute(&mut self, batch: &mut Vec<Command>) {
        if batch.is_empty() {
            return;
        }
        let (path, retention) = (&self.path, self.retention);
        let Some(open) = &mut self.open else {
            let problem = "it is not open".to_owned();
            let error = StoreError::Failed { path: path.clone(), problem };
            batch.drain(..).for_each(|command| command.reply(Err(error.clone())));
            return;
        };
        if let Ok(values) = open.transact(batch, retention) {
            for (command, value) in batch.drain(..).zip(values) {
                command.reply(Ok(value));
            }
            return;
        }
        for command in batch.drain(..) {
            let outcome = open.transact(std::slice::from_ref(&command), retention);
            let outcome = outcome.map_err(|error| StoreError::sqlite(path, &error));
            match outcome.map(|mut values| values.pop()) {
                Ok(value) => command.reply(Ok(value.unwrap_or(CommandValue::Nothing))),
                Err(error) => command.reply(Err(error)),
            }
        }
    }
}
