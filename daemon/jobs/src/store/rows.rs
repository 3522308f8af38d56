//! The SQL statements of the job store: records to rows and back.
//!
//! Owns all SQL except the schema, and the JSON in the columns. Reads no clock: times are arguments.

use std::str::FromStr;
use std::sync::Arc;

use ingle_protocol::wire::jobs::{JobResult, JobStatus};
use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::clock::AgeClock;
use crate::record::{JobRecord, Outcome};

type Sql<T> = rusqlite::Result<T>;

/// The columns, in the order that [`record`] reads them.
const COLUMNS: &str = "id, status, params, class, work_ms, attempts, created_ms, started_ms, \
                       ended_ms, duration_ms, request_id, progress, message, warnings, partial, \
                       outcome";

/// Adds a job. A row that exists already, because the end came first, stays as it is.
pub(super) fn insert(connection: &Connection, job: &JobRecord) -> Sql<()> {
    write(connection, job, None, "ON CONFLICT (id) DO NOTHING")
}

/// Writes a job's end, with or without an existing row. `age_ms` is the store's age.
pub(super) fn end(connection: &Connection, job: &JobRecord, age_ms: u64) -> Sql<()> {
    let update = "ON CONFLICT (id) DO UPDATE SET status = excluded.status, \
                  work_ms = excluded.work_ms, attempts = excluded.attempts, \
                  started_ms = excluded.started_ms, ended_ms = excluded.ended_ms, \
                  duration_ms = excluded.duration_ms, request_id = excluded.request_id, \
                  progress = excluded.progress, message = excluded.message, \
                  warnings = excluded.warnings, partial = excluded.partial, \
                  outcome = excluded.outcome, ended_age = excluded.ended_age";
    write(connection, job, Some(age_ms), update)
}

fn write(
    connection: &Connection,
    job: &JobRecord,
    ended_age: Option<u64>,
    on_conflict: &str,
) -> Sql<()> {
    let sql = format!(
        "INSERT INTO jobs ({COLUMNS}, ended_age) VALUES (:id, :status, :params, :class, :work_ms, \
         :attempts, :created_ms, :started_ms, :ended_ms, :duration_ms, :request_id, :progress, \
         :message, :warnings, :partial, :outcome, :ended_age) {on_conflict}"
    );
    connection.execute(
        &sql,
        named_params! {
            ":id": job.id,
            ":status": job.status.as_str(),
            ":params": text(&*job.params)?,
            ":class": text(&job.class)?,
            ":work_ms": job.work_ms.map(integer),
            ":attempts": job.attempts,
            ":created_ms": job.created_ms,
            ":started_ms": job.started_ms,
            ":ended_ms": job.ended_ms,
            ":duration_ms": integer(job.duration_ms),
            ":request_id": job.request_id,
            ":progress": f64::from(job.progress),
            ":message": job.message,
            ":warnings": text(&job.warnings)?,
            ":partial": text(&job.partial)?,
            ":outcome": job.outcome.as_ref().map(text).transpose()?,
            ":ended_age": ended_age.map(integer),
        },
    )?;
    Ok(())
}

/// Writes a job's progress. A job that has ended stays as it is.
pub(super) fn progress(connection: &Connection, job: &JobRecord) -> Sql<()> {
    connection.execute(
        "UPDATE jobs SET status = :status, work_ms = :work_ms, attempts = :attempts, \
         started_ms = :started_ms, duration_ms = :duration_ms, request_id = :request_id, \
         progress = :progress, message = :message, warnings = :warnings, partial = :partial \
         WHERE id = :id AND ended_age IS NULL",
        named_params! {
            ":id": job.id,
            ":status": job.status.as_str(),
            ":work_ms": job.work_ms.map(integer),
            ":attempts": job.attempts,
            ":started_ms": job.started_ms,
            ":duration_ms": integer(job.duration_ms),
            ":request_id": job.request_id,
            ":progress": f64::from(job.progress),
            ":message": job.message,
            ":warnings": text(&job.warnings)?,
            ":partial": text(&job.partial)?,
        },
    )?;
    Ok(())
}

/// Reads one job.
pub(super) fn get(connection: &Connection, id: &str) -> Sql<Option<JobRecord>> {
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1");
    connection.query_row(&sql, [id], record).optional()
}

/// Reads jobs, the newest first, without their outcomes.
pub(super) fn list(
    connection: &Connection,
    status: Option<JobStatus>,
    limit: usize,
) -> Sql<Vec<JobRecord>> {
    let columns = COLUMNS.replace("outcome", "NULL");
    let sql = format!(
        "SELECT {columns} FROM jobs WHERE ?1 IS NULL OR status = ?1 ORDER BY number DESC LIMIT ?2"
    );
    let mut statement = connection.prepare(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![status.map(JobStatus::as_str), limit], record)?;
    rows.collect()
}

/// Reads the jobs of one status, the oldest first.
pub(super) fn all_of(connection: &Connection, status: JobStatus) -> Sql<Vec<JobRecord>> {
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE status = ?1 ORDER BY number");
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map([status.as_str()], record)?;
    rows.collect()
}

/// Deletes one job if it has ended, and gives the number of deleted rows.
pub(super) fn delete(connection: &Connection, id: &str) -> Sql<usize> {
    connection.execute("DELETE FROM jobs WHERE id = ?1 AND ended_age IS NOT NULL", [id])
}

/// Deletes all jobs that have ended.
pub(super) fn delete_ended(connection: &Connection) -> Sql<usize> {
    connection.execute("DELETE FROM jobs WHERE ended_age IS NOT NULL", [])
}

/// Deletes jobs that ended more than `keep_ms` of the store's age ago, and of the other ended jobs
/// all but the newest `keep_count`.
pub(super) fn sweep(
    connection: &Connection,
    age_ms: u64,
    keep_ms: u64,
    keep_count: usize,
) -> Sql<usize> {
    let mut deleted = 0;
    if let Some(before_ms) = age_ms.checked_sub(keep_ms) {
        let sql = "DELETE FROM jobs WHERE ended_age < ?1";
        deleted += connection.execute(sql, [integer(before_ms)])?;
    }
    let keep_count = i64::try_from(keep_count).unwrap_or(i64::MAX);
    deleted += connection.execute(
        "DELETE FROM jobs WHERE ended_age IS NOT NULL AND number <= (SELECT number FROM jobs \
         WHERE ended_age IS NOT NULL ORDER BY number DESC LIMIT 1 OFFSET ?1)",
        [keep_count],
    )?;
    Ok(deleted)
}

/// Returns the pages of deleted rows to the file system.
pub(super) fn give_back(connection: &Connection) -> Sql<()> {
    // Each row is one page that was returned; the statement must be run to its end.
    let mut statement = connection.prepare("PRAGMA incremental_vacuum")?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// Reads the store's age.
pub(super) fn age(connection: &Connection) -> Sql<AgeClock> {
    connection.query_row("SELECT age_ms, noted_ms FROM age", [], |row| {
        let age_ms: i64 = row.get(0)?;
        Ok(AgeClock { age_ms: u64::try_from(age_ms).unwrap_or(0), noted_ms: row.get(1)? })
    })
}

/// Writes the store's age.
pub(super) fn set_age(connection: &Connection, age: AgeClock) -> Sql<()> {
    let sql = "UPDATE age SET age_ms = ?1, noted_ms = ?2";
    connection.execute(sql, params![integer(age.age_ms), age.noted_ms]).map(drop)
}

fn record(row: &Row<'_>) -> Sql<JobRecord> {
    let status: String = row.get(1)?;
    let duration_ms: i64 = row.get(9)?;
    let work_ms: Option<i64> = row.get(4)?;
    let progress: f64 = row.get(11)?;
    #[expect(clippy::cast_possible_truncation, reason = "a share for display")]
    let progress = progress as f32;
    Ok(JobRecord {
        id: row.get(0)?,
        status: JobStatus::from_str(&status).map_err(|_| bad(1))?,
        params: Arc::new(value(row, 2)?),
        class: value(row, 3)?,
        work_ms: work_ms.and_then(|work_ms| u64::try_from(work_ms).ok()),
        attempts: row.get(5)?,
        created_ms: row.get(6)?,
        started_ms: row.get(7)?,
        ended_ms: row.get(8)?,
        duration_ms: u64::try_from(duration_ms).unwrap_or(0),
        request_id: row.get(10)?,
        progress,
        message: row.get(12)?,
        warnings: value(row, 13)?,
        partial: value(row, 14)?,
        outcome: match row.get::<_, Option<String>>(15)? {
            Some(text) => Some(outcome(&text).map_err(|_| bad(15))?),
            None => None,
        },
        not_stored: None,
    })
}

/// Reads an outcome.
///
/// An earlier version stored the result of a `generate` with the fields of its first choice and with
/// `alternatives`; both become `choices`.
fn outcome(text: &str) -> serde_json::Result<Outcome> {
    const FIELDS: [&str; 7] =
        ["text", "reasoning", "tool_calls", "finish_reason", "stop_string", "seed", "logprobs"];
    let outcome: Outcome = serde_json::from_str(text)?;
    let Outcome::Result(JobResult::Unknown(Value::Object(mut result))) = outcome else {
        return Ok(outcome);
    };
    if result.contains_key("text") && !result.contains_key("choices") {
        let first: Map<String, Value> =
            FIELDS.iter().filter_map(|field| result.remove_entry(*field)).collect();
        let mut choices = vec![Value::Object(first)];
        if let Some(Value::Array(others)) = result.remove("alternatives") {
            choices.extend(others);
        }
        result.insert("choices".to_owned(), Value::Array(choices));
    }
    serde_json::from_value(Value::Object(result)).map(Outcome::Result)
}

fn value<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Sql<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|_| bad(column))
}

/// The error of a column whose value this program does not write.
fn bad(column: usize) -> rusqlite::Error {
    let error = Box::new(FromSqlError::InvalidType);
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error)
}

fn text(value: &impl Serialize) -> Sql<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
