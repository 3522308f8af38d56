//! The embedded database that holds the jobs: one thread owns it, the rest send it commands.
//!
//! Owns the thread, its commands, and what is durable when: a creation and an end are answered
//! when they are on disk, progress is written without waiting for the disk. What comes in together
//! shares one transaction. A store that cannot be opened answers every command with why, and is
//! opened anew by the next [`Store::open`]; nothing is deleted or renamed by itself. Knows nothing
//! of who runs a job.

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

/// What the store keeps of jobs that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Milliseconds of the store's age (see [`AgeClock`]).
    pub ms: u64,
    /// Jobs.
    pub count: usize,
}

/// What a store that was opened held.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovered {
    /// Jobs that waited when the last daemon ended, the oldest first: they had done nothing yet.
    pub queued: Vec<JobRecord>,
    /// How many were found running, and are `interrupted` now.
    pub interrupted: usize,
}

type Done<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the thread can be told.
#[derive(Debug)]
enum Command {
    Open(Done<Recovered>),
    Insert(Box<JobRecord>, Done<()>),
    /// Nobody waits for it, and the next one tells more.
    Progress(Box<JobRecord>),
    End(Box<JobRecord>, Done<()>),
    Get(String, Done<Option<JobRecord>>),
    List {
        status: Option<JobStatus>,
        limit: usize,
        done: Done<Vec<JobRecord>>,
    },
    Delete(String, Done<usize>),
    DeleteEnded(Done<usize>),
    Sweep,
    Close(oneshot::Sender<()>),
}

/// Commands to the store's thread. The thread ends when the last of these has gone.
#[derive(Debug, Clone)]
pub struct Store {
    commands: mpsc::Sender<Command>,
    path: PathBuf,
}

/// Room for one command that was made sure of.
#[derive(Debug)]
pub struct Room<'a>(mpsc::Permit<'a, Command>);

impl Room<'_> {
    /// Sends a new job, and gives what will say that it is on disk.
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
    pub fn spawn(path: PathBuf, keep: Keep) -> io::Result<Self> {
        let (commands, inbox) = mpsc::channel(limits::JOB_STORE_COMMANDS);
        let thread = StoreThread { path: path.clone(), keep, open: None };
        std::thread::Builder::new().name("job store".to_owned()).spawn(|| thread.run(inbox))?;
        Ok(Self { commands, path })
    }

    /// Opens the file if it is not open, and sorts what the last daemon left behind.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub async fn open(&self) -> Result<Recovered, StoreError> {
        self.ask(Command::Open).await
    }

    /// Waits for room for a command.
    ///
    /// # Errors
    /// When the thread has ended.
    pub async fn room(&self) -> Result<Room<'_>, StoreError> {
        self.commands.reserve().await.map(Room).map_err(|_| self.ended())
    }

    /// Adds a job. When this returns, it is on disk.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn insert(&self, job: JobRecord) -> Result<(), StoreError> {
        let stored = self.room().await?.insert(job);
        stored.await.unwrap_or_else(|_| Err(self.ended()))
    }

    /// Notes how far a job has come, unless the thread is behind: then the next report does.
    pub fn progress(&self, job: JobRecord) {
        let _ = self.commands.try_send(Command::Progress(Box::new(job)));
    }

    /// Notes that a job runs now; waits for room, because no report may follow for long.
    pub async fn started(&self, job: JobRecord) {
        let _ = self.commands.send(Command::Progress(Box::new(job))).await;
    }

    /// Writes a job's end. When this returns, it is on disk.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn end(&self, job: JobRecord) -> Result<(), StoreError> {
        self.ask(|done| Command::End(Box::new(job), done)).await
    }

    /// Reads one job.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub async fn get(&self, id: String) -> Result<Option<JobRecord>, StoreError> {
        self.ask(|done| Command::Get(id, done)).await
    }

    /// Reads jobs, the newest first, without what they ended with.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub async fn list(
        &self,
        status: Option<JobStatus>,
        limit: usize,
    ) -> Result<Vec<JobRecord>, StoreError> {
        self.ask(|done| Command::List { status, limit, done }).await
    }

    /// Forgets a job that has ended; says how many that were, one or none.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn delete(&self, id: String) -> Result<usize, StoreError> {
        self.ask(|done| Command::Delete(id, done)).await
    }

    /// Forgets all jobs that have ended, and says how many.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn delete_ended(&self) -> Result<usize, StoreError> {
        self.ask(Command::DeleteEnded).await
    }

    /// Cleans up by age and count; the next cleaning does it if the thread is behind.
    pub fn sweep(&self) {
        let _ = self.commands.try_send(Command::Sweep);
    }

    /// Closes the file, with all that was sent before in it. Every later command fails.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            // A thread that has ended has closed it.
            let _ = closed.await;
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(Done<T>) -> Command) -> Result<T, StoreError> {
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

/// What a command found.
enum Answer {
    Nothing,
    Job(Option<Box<JobRecord>>),
    Jobs(Vec<JobRecord>),
    Count(usize),
}

impl Command {
    /// Whether its sender is told that it is on disk.
    const fn is_durable(&self) -> bool {
        !matches!(self, Self::Progress(_) | Self::Get(..) | Self::List { .. })
    }

    fn apply(&self, connection: &Connection, age_ms: u64, keep: Keep) -> rusqlite::Result<Answer> {
        Ok(match self {
            Self::Open(_) | Self::Close(_) => Answer::Nothing,
            Self::Insert(job, _) => {
                rows::insert(connection, job)?;
                Answer::Nothing
            }
            Self::Progress(job) => {
                rows::progress(connection, job)?;
                Answer::Nothing
            }
            Self::End(job, _) => {
                rows::end(connection, job, age_ms)?;
                rows::sweep(connection, age_ms, keep.ms, keep.count)?;
                Answer::Nothing
            }
            Self::Get(id, _) => Answer::Job(rows::get(connection, id)?.map(Box::new)),
            Self::List { status, limit, .. } => {
                Answer::Jobs(rows::list(connection, *status, *limit)?)
            }
            Self::Delete(id, _) => Answer::Count(rows::delete(connection, id)?),
            Self::DeleteEnded(_) => Answer::Count(rows::delete_ended(connection)?),
            Self::Sweep => Answer::Count(rows::sweep(connection, age_ms, keep.ms, keep.count)?),
        })
    }

    /// Tells its sender, who may have gone.
    fn answer(self, outcome: Result<Answer, StoreError>) {
        match (self, outcome) {
            (Self::Insert(_, done) | Self::End(_, done), outcome) => {
                let _ = done.send(outcome.map(drop));
            }
            (Self::Get(_, done), Ok(Answer::Job(job))) => {
                let _ = done.send(Ok(job.map(|job| *job)));
            }
            (Self::Get(_, done), Err(error)) => {
                let _ = done.send(Err(error));
            }
            (Self::List { done, .. }, Ok(Answer::Jobs(jobs))) => {
                let _ = done.send(Ok(jobs));
            }
            (Self::List { done, .. }, Err(error)) => {
                let _ = done.send(Err(error));
            }
            (Self::Delete(_, done) | Self::DeleteEnded(done), Ok(Answer::Count(count))) => {
                let _ = done.send(Ok(count));
            }
            (Self::Delete(_, done) | Self::DeleteEnded(done), Err(error)) => {
                let _ = done.send(Err(error));
            }
            (Self::Progress(_) | Self::Sweep, Err(error)) => {
                tracing::warn!(%error, "the progress of a job was not stored");
            }
            _ => {}
        }
    }
}

/// The open file.
struct Open {
    connection: Connection,
    age: AgeClock,
    /// When `age` was brought up to date.
    since: Instant,
    /// Whether a commit waits for the disk.
    is_synchronous: bool,
}

impl Open {
    fn new(path: &Path) -> Result<Self, StoreError> {
        let connection = schema::open(path, schema::MIGRATIONS)?;
        let age = rows::age(&connection).map_err(|error| StoreError::sqlite(path, &error))?;
        let age = age.resumed(clock::unix_ms());
        Ok(Self { connection, age, since: Instant::now(), is_synchronous: true })
    }

    /// Sorts what the last daemon left behind: what ran is interrupted and keeps its partial
    /// result; what waited has done nothing yet, and waits on.
    fn recover(&mut self, keep: Keep) -> rusqlite::Result<Recovered> {
        let transaction = self.connection.transaction()?;
        let running = rows::all_of(&transaction, JobStatus::Running)?;
        let interrupted = running.len();
        for mut job in running {
            job.interrupt(clock::unix_ms());
            rows::end(&transaction, &job, self.age.age_ms)?;
        }
        let queued = rows::all_of(&transaction, JobStatus::Queued)?;
        rows::set_age(&transaction, self.age)?;
        rows::sweep(&transaction, self.age.age_ms, keep.ms, keep.count)?;
        transaction.commit()?;
        Ok(Recovered { queued, interrupted })
    }

    /// Brings the store's age up to date.
    fn tick(&mut self) {
        let elapsed_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since = Instant::now();
        self.age = self.age.advanced(elapsed_ms, clock::unix_ms());
    }

    /// Does all of `commands`, or none of them.
    fn transact(&mut self, commands: &[Command], keep: Keep) -> rusqlite::Result<Vec<Answer>> {
        self.tick();
        let is_synchronous = commands.iter().any(Command::is_durable);
        if is_synchronous != self.is_synchronous {
            let level = if is_synchronous { "FULL" } else { "NORMAL" };
            self.connection.execute_batch(&format!("PRAGMA synchronous = {level}"))?;
            self.is_synchronous = is_synchronous;
        }
        let transaction = self.connection.transaction()?;
        let apply = |command: &Command| command.apply(&transaction, self.age.age_ms, keep);
        let answers = commands.iter().map(apply).collect::<rusqlite::Result<Vec<_>>>()?;
        if is_synchronous {
            rows::set_age(&transaction, self.age)?;
        }
        transaction.commit()?;
        if commands.iter().any(|command| matches!(command, Command::Sweep)) {
            // Gives back what deleted jobs held; it stays for new ones if that fails.
            let _ = rows::give_back(&self.connection);
        }
        Ok(answers)
    }
}

struct StoreThread {
    path: PathBuf,
    keep: Keep,
    open: Option<Open>,
}

impl StoreThread {
    fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut batch = Vec::new();
        while let Some(command) = inbox.blocking_recv() {
            let mut next = Some(command);
            while let Some(command) = next.take() {
                match command {
                    // Opening is no part of a transaction.
                    Command::Open(done) => {
                        self.work_off(&mut batch);
                        // Who asked may have gone; then the next one asks.
                        let _ = done.send(self.open());
                    }
                    Command::Close(done) => {
                        self.work_off(&mut batch);
                        // SQLite moves what is in its log into the file itself.
                        self.open = None;
                        let _ = done.send(());
                    }
                    command => batch.push(command),
                }
                if batch.len() < limits::JOB_STORE_BATCH {
                    next = inbox.try_recv().ok();
                }
            }
            self.work_off(&mut batch);
        }
    }

    fn open(&mut self) -> Result<Recovered, StoreError> {
        if self.open.is_some() {
            return Ok(Recovered::default());
        }
        let mut open = Open::new(&self.path)?;
        let recovered = open.recover(self.keep);
        let recovered = recovered.map_err(|error| StoreError::sqlite(&self.path, &error))?;
        self.open = Some(open);
        Ok(recovered)
    }

    /// Does all of `batch` in one transaction and answers when it is committed. If one of them
    /// fails, each is done in a transaction of its own, so that it fails alone.
    fn work_off(&mut self, batch: &mut Vec<Command>) {
        if batch.is_empty() {
            return;
        }
        let (path, keep) = (&self.path, self.keep);
        let Some(open) = &mut self.open else {
            let problem = "it is not open".to_owned();
            let error = StoreError::Failed { path: path.clone(), problem };
            batch.drain(..).for_each(|command| command.answer(Err(error.clone())));
            return;
        };
        if let Ok(answers) = open.transact(batch, keep) {
            for (command, answer) in batch.drain(..).zip(answers) {
                command.answer(Ok(answer));
            }
            return;
        }
        for command in batch.drain(..) {
            let outcome = open.transact(std::slice::from_ref(&command), keep);
            let outcome = outcome.map_err(|error| StoreError::sqlite(path, &error));
            match outcome.map(|mut answers| answers.pop()) {
                Ok(answer) => command.answer(Ok(answer.unwrap_or(Answer::Nothing))),
                Err(error) => command.answer(Err(error)),
            }
        }
    }
}
