//! What the kernel programs say of themselves: in builds with the feature `kernel-log`, and only when asked for.

use super::{
    load::{self, LoadError},
    object::Object,
};

/// The object with messages if it is wanted and there, else the plain one.
pub(super) fn object(log: bool) -> Result<Object, LoadError> {
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
    pub(super) fn new(object: &Object, log: bool) -> Self {
        #[cfg(feature = "kernel-log")]
        {
            // By any program that is loaded and has messages: it knows the map that they go to.
            let mut ids = object
                .programs()
                .filter_map(|(_, program)| program.number("prog_id"));
            let logger = log.then(|| ids.find_map(|id| aya_log::EbpfLogger::init_from_id(id).ok()));
            Self {
                logger: logger.flatten(),
            }
        }
        #[cfg(not(feature = "kernel-log"))]
        {
            let _ = (object, log);
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
