//! How a process becomes a target, and how it is let go.

use std::sync::{Arc, PoisonError};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use probe_common::{
    limits::NAME_BASE64_MAX,
    target::{
        TARGET_COUNTS_CALLED, TARGET_COUNTS_SERVED, TARGET_KEEP_PATHS, TARGET_NEEDS_VERDICT,
        TARGET_PROPAGATE_SW8, TARGET_PROPAGATE_W3C, TARGET_SAMPLES, TargetInfo,
    },
};
use tracing::{debug, info, warn};

use super::{
    Targets,
    binary::{Binary, Refused, Unattached},
};
use crate::{
    clock,
    config::{Config, Routes},
    discover::{container::Place, network, pod::Pod, process::Process},
    export::skywalking::management::Properties,
    instrument::go::grpc,
    kernel::{
        enrol::Enrolled,
        propagation::{SocketMethod, Sockets},
    },
    naming::{self, Known},
    telemetry::{Loss, Tally},
    trace::segment::Identity,
};

/// A traced process.
pub(super) struct Target {
    pub(super) process: Process,
    pub(super) place: Place,
    pub(super) pod: Option<Arc<Pod>>,
    pub(super) identity: Arc<Identity>,
    pub(super) binary: Arc<Binary>,
    /// Before its program was looked at.
    pub(super) looked_ns: u64,
    pub(super) since_ns: u64,
    /// What became of the connections it had; nothing where none is taken over.
    pub(super) enrolled: Option<Enrolled>,
}

/// Why a process is traced no longer.
#[derive(Clone, Copy)]
pub(super) enum End {
    Ended,
    RunsAnother,
    NotMeant,
    /// It is traced anew under its pod's name.
    Renamed,
    /// Somebody is about to write into its file.
    Written,
    Stopping,
}

impl End {
    const fn words(self) -> &'static str {
        match self {
            Self::Ended => "it has ended",
            Self::RunsAnother => "it runs another program now",
            Self::NotMeant => "it is not selected any more",
            Self::Renamed => "its pod or container is known now, and gives it other names",
            Self::Written => "somebody is about to write into its program's file",
            Self::Stopping => "the probe stops",
        }
    }
}

impl Targets {
    pub(super) fn trace(&mut self, process: &Process, looked_ns: u64) -> Result<(), Unattached> {
        let binary = self.binaries.attach(&mut self.kernel, process)?;
        let place = Place::of(process.pid);
        let pod = self.surroundings.pods().of(&place);
        let known = Known {
            process,
            place: &place,
            pod: pod.as_deref(),
        };
        let identity = Arc::new(naming::name_target(known, &self.config));
        let load_bias = binary.load_bias(process.pid);
        let info = self.target_info(process, &binary, &identity, load_bias);
        if let Some(types) = binary.type_names(load_bias) {
            self.types
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(process.pid, types);
        }
        self.tracer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add_target(process.pid, Arc::clone(&identity));
        if self.propagation.is_some()
            && binary.plan.writes_frames()
            && let Err(error) = self.kernel.start_frame_propagation()
        {
            let error = crate::chain(&error);
            warn!(pid = process.pid, %error, "Requests by HTTP/2 get no header");
        }
        let told = self
            .sampler
            .add(process.pid, &mut self.kernel)
            .and_then(|()| self.kernel.insert_target(process.pid, &info));
        if let Err(error) = told {
            self.forget(process.pid);
            return Err(Refused::new(crate::chain(&error)).into());
        }
        let mut taken_over = None;
        if let Some(method) = self.propagation {
            match self.kernel.enrol(process, sockets(method, &binary)) {
                Ok(enrolled) => {
                    taken_over = Some(enrolled);
                    debug!(
                        pid = process.pid,
                        count = enrolled.sockets,
                        "Open connections enrolled"
                    );
                    if enrolled.refused > 0 {
                        let count = enrolled.refused;
                        warn!(
                            pid = process.pid,
                            count, "Open connections not enrolled: another program has them"
                        );
                    }
                }
                // It has ended meanwhile, and the notice of that is on its way.
                Err(_) if !process.is_current() => {}
                Err(error) => {
                    let error = crate::chain(&error);
                    warn!(
                        pid = process.pid,
                        %error,
                        "Open connections not enrolled, so requests on them get no header: `skyprobe doctor` names the \
                         rights that are missing"
                    );
                }
            }
        }
        if let Some(registry) = &self.registry {
            registry.register(Arc::clone(&identity), properties(known, &self.config));
        }
        if self.config.naming.instance.is_some() && !self.targets.is_empty() && !self.shares_instance {
            self.shares_instance = true;
            warn!(
                instance = identity.instance,
                "Several processes have this one instance name, and SkyWalking takes them for one: leave `--instance` \
                 out, and each has its own"
            );
        }
        let (service, instance) = (&identity.service, &identity.instance);
        info!(pid = process.pid, exe = %process.exe.display(), service, instance, "Process traced");
        let target = Target {
            process: process.clone(),
            place,
            pod,
            identity,
            binary,
            looked_ns,
            since_ns: clock::now_boot_ns(),
            enrolled: taken_over,
        };
        self.targets.insert(process.pid, target);
        Ok(())
    }

    fn target_info(
        &self,
        process: &Process,
        binary: &Binary,
        identity: &Identity,
        load_bias: Option<u64>,
    ) -> TargetInfo {
        let mut flags = match self.config.routes {
            Routes::Pattern => 0,
            Routes::Path => TARGET_KEEP_PATHS,
        };
        if let Some(method) = self.propagation {
            if self.config.propagate.sw8 {
                flags |= TARGET_PROPAGATE_SW8;
            }
            if self.config.propagate.w3c {
                flags |= TARGET_PROPAGATE_W3C;
            }
            if sockets(method, binary) == Sockets::WithVerdict {
                flags |= TARGET_NEEDS_VERDICT;
            }
        }
        if self.sampler.is_on() {
            flags |= TARGET_SAMPLES;
        }
        if binary.plan.attaches(grpc::COUNT_SERVED) {
            flags |= TARGET_COUNTS_SERVED;
        }
        if binary.plan.attaches(grpc::COUNT_CALLED) {
            flags |= TARGET_COUNTS_CALLED;
        }
        let (service_base64, service_base64_len) = base64_name(&identity.service);
        let (instance_base64, instance_base64_len) = base64_name(&identity.instance);
        TargetInfo {
            offsets: binary.plan.offsets,
            goidgen_address: load_bias
                .and_then(|bias| binary.plan.goidgen?.checked_add(bias))
                .unwrap_or(0),
            grpc_received_at: binary.plan.grpc_received_at.unwrap_or(0),
            network: self.network(process),
            flags,
            service_base64_len,
            instance_base64_len,
            service_base64,
            instance_base64,
        }
    }

    /// The cookie of the process's network namespace; without it no hop over TLS is joined.
    fn network(&self, process: &Process) -> u64 {
        if self.propagation.is_none() {
            return 0;
        }
        network::cookie(process).unwrap_or_else(|error| {
            debug!(pid = process.pid, %error, "Network namespace not known, so no hop over TLS is joined");
            0
        })
    }

    pub(super) fn let_go(&mut self, pid: u32, why: End) {
        let now_ns = clock::now_boot_ns();
        if let Some(binary) = self.release(pid, why)
            // Else nobody can come who runs it.
            && self.is_open()
        {
            self.binaries.keep(binary, now_ns);
        }
        self.binaries.forget_unused(now_ns);
    }

    /// Takes the hooks out of files that others want to write into. They wait until that is done.
    pub(super) fn give_back(&mut self) {
        for binary in self.binaries.take_asked_back() {
            let users: Vec<u32> = self
                .targets
                .values()
                .filter(|target| Arc::ptr_eq(&target.binary, &binary))
                .map(|target| target.process.pid)
                .collect();
            for pid in users {
                // It has ended, or has the file by another name, and can be traced again.
                self.release(pid, End::Written);
                self.later.insert(pid);
            }
            self.binaries.detach(binary);
        }
    }

    /// Traces the process no longer; its binary, which detaches if this was the last process that ran it.
    pub(super) fn release(&mut self, pid: u32, why: End) -> Option<Arc<Binary>> {
        let Target {
            process,
            identity,
            binary,
            ..
        } = self.targets.remove(&pid)?;
        match self.kernel.remove_target(pid) {
            Ok(spans) => self.telemetry.lost(Loss::OpenAtEnd, Tally { segments: 0, spans }),
            Err(error) => {
                let error = crate::chain(&error);
                warn!(pid, %error, "Process not removed from the kernel's table");
            }
        }
        self.sampler.remove(pid, &mut self.kernel);
        self.forget(pid);
        if let Some(registry) = &self.registry {
            registry.unregister(&identity);
        }
        let why = why.words();
        info!(pid, exe = %process.exe.display(), service = identity.service, why, "Process let go");
        Some(binary)
    }

    fn forget(&self, pid: u32) {
        let now_ns = clock::now_boot_ns();
        self.tracer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove_target(pid, now_ns);
        self.types
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(pid, now_ns);
    }
}

/// What its instance tells of itself.
pub(super) fn properties(known: Known<'_>, config: &Config) -> Properties {
    let mut properties = Properties::of_process(known.process.pid, "go");
    for (key, value) in known.properties(config) {
        properties.push(key, value);
    }
    properties
}

/// Where the sockets of the binary's processes belong.
fn sockets(method: SocketMethod, binary: &Binary) -> Sockets {
    if method.receive_verdict && binary.plan.may_ask_fionread {
        Sockets::WithVerdict
    } else {
        Sockets::Plain
    }
}

/// A name as `sw8` carries it. Names are cut to OAP's limits before, so it fits.
fn base64_name(name: &str) -> ([u8; NAME_BASE64_MAX], u16) {
    let mut bytes = [0; NAME_BASE64_MAX];
    let len = STANDARD.encode_slice(name, &mut bytes).unwrap_or(0);
    (bytes, u16::try_from(len).unwrap_or(0))
}
