//! The schema of the job store: opening, checks and migrations of its file.
//!
//! Owns the migrations and SQLite's settings. A damaged, foreign or newer file is refused and left
//! as it is.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use crate::limits;
use rusqlite::{Connection, OpenFlags};

use super::error::StoreError;

/// The migrations from each version to the next, each in a transaction of its own.
///
/// A released entry never changes.
pub(super) const MIGRATIONS: &[&str] = &["
    CREATE TABLE jobs (
        number      INTEGER PRIMARY KEY AUTOINCREMENT,
        id          TEXT NOT NULL UNIQUE,
        status      TEXT NOT NULL,
        params      TEXT NOT NULL,
        class       TEXT NOT NULL,
        work_ms     INTEGER,
        attempts    INTEGER NOT NULL,
        created_ms  INTEGER NOT NULL,
        started_ms  INTEGER,
        ended_ms    INTEGER,
        duration_ms INTEGER NOT NULL,
        request_id  TEXT,
        progress    REAL NOT NULL,
        message     TEXT NOT NULL,
        warnings    TEXT NOT NULL,
        partial     TEXT NOT NULL,
        outcome     TEXT,
        ended_age   INTEGER
    ) STRICT;
    CREATE INDEX jobs_by_status ON jobs (status, number);
    CREATE INDEX jobs_by_age ON jobs (ended_age) WHERE ended_age IS NOT NULL;
    CREATE TABLE age (
        one      INTEGER PRIMARY KEY CHECK (one = 1),
        age_ms   INTEGER NOT NULL,
        noted_ms INTEGER NOT NULL
    ) STRICT;
    INSERT INTO age VALUES (1, 0, 0);
"];

/// The application id of Ingle's files: `INGL`.
const APPLICATION_ID: i64 = 0x494e_474c;

/// The largest file, in bytes, whose integrity is checked when it is opened.
///
/// Damage in a larger one shows when the damaged page is read.
const CHECKED_BYTES: u64 = 64 * 1024 * 1024;

/// Opens the store, creates it if there is none, and runs its migrations.
pub(super) fn open(path: &Path, migrations: &[&str]) -> Result<Connection, StoreError> {
    make_file(path).map_err(|error| StoreError::open(path, &error))?;
    let failed = |error: rusqlite::Error| StoreError::sqlite(path, &error);
    // SQLite needs no lock of its own: one thread owns the connection.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(Duration::from_millis(limits::JOB_STORE_BUSY_MS)).map_err(failed)?;
    check(&connection, path)?;
    migrate(&mut connection, path, migrations)?;
    Ok(connection)
}

/// Creates folder and file with modes 0700 and 0600, whatever the umask is.
fn make_file(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| StoreError::sqlite(path, &error);
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let application = number("PRAGMA application_id").map_err(failed)?;
    let tables = number("SELECT count(*) FROM sqlite_schema").map_err(failed)?;
    if tables > 0 && application != APPLICATION_ID {
        let problem = "it is another program's database".to_owned();
        return Err(StoreError::Corrupt { path: path.to_owned(), problem });
    }
    let bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
    if bytes > 0 && bytes <= CHECKED_BYTES {
        let found: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if found != "ok" {
            return Err(StoreError::Corrupt { path: path.to_owned(), problem: found });
        }
    }
    Ok(())
}

fn migrate(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| StoreError::sqlite(path, &error);
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let found: i64 =
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    // `auto_vacuum` works only if it is set before the first table is created.
    let settings = "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; \
                    PRAGMA journal_size_limit = 4194304; PRAGMA foreign_keys = ON;";
    connection.execute_batch(settings).map_err(failed)?;
    let done = usize::try_from(found).unwrap_or(0);
    for (index, migration) in migrations.iter().enumerate().skip(done) {
        let transaction = connection.transaction().map_err(failed)?;
        let version = index + 1;
        let stamp =
            format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version};");
        transaction.execute_batch(migration).map_err(failed)?;
        transaction.execute_batch(&stamp).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}
