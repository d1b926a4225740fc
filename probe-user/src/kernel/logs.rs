//! What the kernel programs say of themselves: in builds with the feature `kernel-log`, and only when asked for.

use aya::Ebpf;

use super::load::{self, LoadError};

/// The object with messages if it is wanted and there, else the plain one.
pub(super) fn object(log: bool) -> Result<Ebpf, LoadError> {
    #[cfg(feature = "kernel-log")]
    if log {
        return load::from(load::LOGGING_OBJECT);
    }
    #[cfg(not(feature = "kernel-log"))]
    let _ = log;
    load::object()
}

/// The user end of the messages.
pub(super) struct Logs {
    #[cfg(feature = "kernel-log")]
    logger: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

impl Logs {
    pub(super) fn new(ebpf: &mut Ebpf, log: bool) -> Self {
        #[cfg(feature = "kernel-log")]
        {
            let logger = log.then(|| aya_log::EbpfLogger::init(ebpf)).and_then(Result::ok);
            Self { logger }
        }
        #[cfg(not(feature = "kernel-log"))]
        {
            let _ = (ebpf, log);
            Self {}
        }
    }

    pub(super) fn forward(&mut self) {
        #[cfg(feature = "kernel-log")]
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }
}
