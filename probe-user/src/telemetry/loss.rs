//! What may be lost in user space, and how much of it was.

use std::fmt;

use crate::words::{SPANS, counted};

/// Why something did not arrive, in user space. The kernel side has its own list, [`LossReason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// A record from the kernel was short, or of a kind nobody knows. What it told is unknown.
    RecordMalformed,
    /// The request or call was open when its process ended or the probe stopped: its end was not seen.
    OpenAtEnd,
    /// The queue before the exporter was full: it is slower than the traced programs. The newest is dropped.
    QueueFull,
    /// No OAP could be reached by the time the probe stopped.
    OapUnreachable,
    /// OAP refused the authentication token.
    OapRefused,
    /// What answers at the address does not take segments.
    OapUnimplemented,
    /// OAP answered with an error, or kept asking to be spared.
    ExportFailed,
    /// Sent, but never confirmed: it may have arrived or not.
    Unconfirmed,
    /// The probe stopped, and the time to send what was left was over.
    FlushDeadline,
    /// The output of `text` or `json` could not be written: disk full, pipe closed.
    OutputFailed,
}

impl Loss {
    /// All losses, in the order they are shown.
    pub const ALL: [Self; 10] = [
        Self::RecordMalformed,
        Self::OpenAtEnd,
        Self::QueueFull,
        Self::OapUnreachable,
        Self::OapRefused,
        Self::OapUnimplemented,
        Self::ExportFailed,
        Self::Unconfirmed,
        Self::FlushDeadline,
        Self::OutputFailed,
    ];

    /// The name under which it is reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RecordMalformed => "record_malformed",
            Self::OpenAtEnd => "open_at_end",
            Self::QueueFull => "queue_full",
            Self::OapUnreachable => "oap_unreachable",
            Self::OapRefused => "oap_refused",
            Self::OapUnimplemented => "oap_unimplemented",
            Self::ExportFailed => "export_failed",
            Self::Unconfirmed => "unconfirmed",
            Self::FlushDeadline => "flush_deadline",
            Self::OutputFailed => "output_failed",
        }
    }

    /// Whether it strikes finished segments. Only then does it belong to the sum that closes.
    pub const fn after_production(self) -> bool {
        match self {
            Self::RecordMalformed | Self::OpenAtEnd => false,
            Self::QueueFull
            | Self::OapUnreachable
            | Self::OapRefused
            | Self::OapUnimplemented
            | Self::ExportFailed
            | Self::Unconfirmed
            | Self::FlushDeadline
            | Self::OutputFailed => true,
        }
    }
}

/// How much: segments, and the spans in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub segments: u64,
    pub spans: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.segments += other.segments;
        self.spans += other.spans;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&counted(self.spans, SPANS))?;
        // What never became a segment is not in any.
        if self.segments > 0 {
            write!(f, " in {}", counted(self.segments, ["segment", "segments"]))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_positions_and_names_differ() {
        for (position, loss) in Loss::ALL.into_iter().enumerate() {
            assert_eq!(loss as usize, position, "{}", loss.name());
        }
        let mut names: Vec<_> = Loss::ALL.into_iter().map(Loss::name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Loss::ALL.len());
    }
}
