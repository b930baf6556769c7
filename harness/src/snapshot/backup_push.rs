//! Backup jobs in push mode: QEMU copies every disk, with all layers, as it was when the job began, while
//! the guest goes on writing to the same files.
//!
//! While a guest is frozen its copy is slowed down. At full speed it would often be over before the thaw,
//! and show nothing about writes that come meanwhile; and an emulated guest on a busy host was observed
//! not to answer for seconds.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use contract::plan::Accel;
use virt::domain::Domain;
use virt::sys;

use super::method::{Completion, Copying, Method, Request, Taken};
use crate::error::{Error, Result, SnapshotError};
use crate::guest::{Drive, escape_xml};
use crate::host::{self, GuestEvent, JobSubscription, Libvirt};
use crate::interrupt;
use crate::overlay::{self, overlay};

/// The least that libvirt can ask for, MiB a second.
const SLOW: u8 = 1;

/// libvirt's word for no bound.
const UNBOUNDED: u8 = 0;

/// One job over all disks. See <https://libvirt.org/formatbackup.html>.
pub(super) struct BackupPush;

impl Method for BackupPush {
    fn probe(&self, libvirt: &Libvirt, accel: Accel, _: &Path) -> Result<()> {
        if libvirt.runs_backup_jobs(accel)? { Ok(()) } else { Err(SnapshotError::NoBackupJobs.into()) }
    }

    fn take(&self, request: &Request<'_>) -> Result<Taken> {
        let &Request { machine, chosen, dir, cycle, limit, .. } = request;
        let suffix = format!("backup-{cycle}");
        let snapshot: Vec<_> = chosen.iter().map(|drive| overlay(dir, &drive.target, &suffix)).collect();
        for (copy, drive) in snapshot.iter().zip(chosen) {
            overlay::create(copy, machine.disk_bytes(&drive.target)?, None)?;
        }
        let job = Job::begin(machine.domain(), &snapshot, limit)?;
        Ok(Taken { snapshot, live: chosen.to_vec(), completion: Completion::of(job) })
    }
}

/// A job that libvirt runs. Dropping it aborts it.
#[derive(Debug)]
struct Job {
    domain: Domain,
    /// The domain's disks that are copied.
    disks: Vec<String>,
    limit: Duration,
    deadline: Instant,
    state: Mutex<State>,
    _subscription: JobSubscription,
}

#[derive(Debug)]
struct State {
    events: Receiver<GuestEvent>,
    /// Once it has ended; an error is libvirt's reason.
    outcome: Option<Result<(), String>>,
}

impl Job {
    /// Begins to copy the disks into these files. What is copied is fixed when this returns.
    fn begin(domain: &Domain, targets: &[Drive], limit: Duration) -> Result<Self> {
        let disks: String = targets
            .iter()
            .map(|Drive { target, file }| {
                let (name, file) = (escape_xml(target), escape_xml(&file.to_string_lossy()));
                format!(
                    "<disk name='{name}' backup='yes' type='file'><driver type='qcow2'/><target file='{file}'/></disk>"
                )
            })
            .collect();
        let xml = format!("<domainbackup mode='push'><disks>{disks}</disks></domainbackup>");
        let (sender, events) = channel();
        // First, so that its end is not missed.
        let subscription = host::subscribe_to_job(domain, &sender)
            .and_then(|subscription| host::backup_begin(domain, &xml).map(|()| subscription))
            .map_err(Error::libvirt("begin a backup job"))?;
        let job = Self {
            domain: domain.clone(),
            disks: targets.iter().map(|drive| drive.target.clone()).collect(),
            limit,
            deadline: Instant::now() + limit,
            state: Mutex::new(State { events, outcome: None }),
            _subscription: subscription,
        };
        job.set_speed(SLOW);
        Ok(job)
    }

    fn set_speed(&self, mib: u8) {
        for disk in &self.disks {
            // A disk whose copy is over has none; one that stays slow does not end in time.
            let _ = host::set_job_speed(&self.domain, disk, mib.into());
        }
    }

    /// How it ended; an error is libvirt's reason, which may be that the guest is gone.
    fn outcome(&self) -> Result<(), String> {
        let reason = |error: virt::error::Error| error.message().to_owned();
        let stats = self.domain.job_stats(sys::VIR_DOMAIN_JOB_STATS_COMPLETED).map_err(reason)?;
        if stats.r#type != sys::VIR_DOMAIN_JOB_COMPLETED as i32 {
            return Err(stats.error_message.unwrap_or_else(|| "it was cancelled".to_owned()));
        }
        // The event comes before QEMU has closed the files. libvirt answers this only afterwards.
        self.disks.iter().try_for_each(|disk| self.domain.block_stats(disk).map(drop).map_err(reason))
    }
}

impl Copying for Job {
    fn go_on(&self) {
        self.set_speed(UNBOUNDED);
    }

    fn wait(&self) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.outcome.is_none() {
            interrupt::receive(&state.events, self.deadline)?
                .ok_or(SnapshotError::CopyUnfinished(self.limit))?;
            state.outcome = Some(self.outcome());
        }
        match &state.outcome {
            Some(Err(reason)) => Err(SnapshotError::CopyFailed(reason.clone()).into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.outcome.is_none() {
            // It may have ended with its guest.
            let _ = host::abort_job(&self.domain);
        }
    }
}
