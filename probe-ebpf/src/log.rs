//! Messages for whoever debugs the kernel programs. Only the object built with the feature `kernel-log` has them.

/// Logs at level debug: a literal and its arguments.
macro_rules! kernel_log {
    ($text:literal $(, $argument:expr)*) => {
        #[cfg(feature = "kernel-log")]
        {
            aya_log_ebpf::debug!((), $text $(, $argument)*);
        }
    };
}

pub(crate) use kernel_log;
