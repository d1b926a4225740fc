//! What the kernel side may lose, by reason. User space has its own list in `telemetry`; the sum of both closes.

/// Why a record, a parent or a header did not come about. The number is the index in the per-CPU counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum LossReason {
    /// The ring buffer had no room: user space was too slow. A span is lost.
    RingFull = 0,
    /// The table of open requests was full. A span is lost.
    RequestsFull = 1,
    /// The table of open calls was full. A span is lost.
    CallsFull = 2,
    /// Memory of the target could not be read (paged out, or not what we took it for). A span is lost.
    ReadFault = 3,
    /// An open request was overwritten by the next one on its goroutine: its end was never seen. A span is lost.
    EndMissed = 4,
    /// The request came by an HTTP/2 that is none of Go's own. A span is lost.
    ProtocolUnsupported = 5,
    /// The head of a request had left the parser's buffer: its headers are unknown. The span is a root.
    HeadIncomplete = 6,
    /// An incoming `sw8` was not understood. The span starts a new trace.
    Sw8Malformed = 7,
    /// A header was longer than what is kept of it. It is treated as absent.
    HeaderTooLong = 8,
    /// No header went out: the connection is encrypted.
    PropagationEncrypted = 9,
    /// No header went out: the request carries one of the program's own.
    PropagationPresent = 10,
    /// No header went out: the connection is not a plain TCP one we know.
    PropagationUnknownConnection = 11,
    /// No header went out: the request line was not found at the start of a message.
    PropagationNoRequestLine = 12,
    /// No header went out: the kernel refused to make room in the message.
    PropagationRefused = 13,
    /// No header went out: the prepared lines were longer than [`crate::limits::PREPARED_MAX`].
    PropagationTooLong = 14,
    /// No header went out: the socket is not enrolled.
    PropagationNotEnrolled = 15,
    /// A program found no free working memory: programs preempted each other too deeply. A span is lost, or its
    /// header.
    ScratchBusy = 16,
    /// The kernel refused to enrol a client socket of a target. Its requests get no header.
    EnrolRefused = 17,
    /// What stood where a frame of HTTP/2 had to begin was none: headers of the streams in the message may be missing.
    PropagationFramesLost = 18,
    /// The ring buffer had no room for the word that a process has started or ended. User space looks at all processes
    /// now and then, and finds out later.
    ProcessUnnoticed = 19,
    /// Memory of a call's context could not be read: it may be another request's than its goroutine's. The call has no
    /// parent.
    ContextUnread = 20,
}

impl LossReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 21] = [
        Self::RingFull,
        Self::RequestsFull,
        Self::CallsFull,
        Self::ReadFault,
        Self::EndMissed,
        Self::ProtocolUnsupported,
        Self::HeadIncomplete,
        Self::Sw8Malformed,
        Self::HeaderTooLong,
        Self::PropagationEncrypted,
        Self::PropagationPresent,
        Self::PropagationUnknownConnection,
        Self::PropagationNoRequestLine,
        Self::PropagationRefused,
        Self::PropagationTooLong,
        Self::PropagationNotEnrolled,
        Self::ScratchBusy,
        Self::EnrolRefused,
        Self::PropagationFramesLost,
        Self::ProcessUnnoticed,
        Self::ContextUnread,
    ];

    /// The name under which it is reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::RequestsFull => "requests_full",
            Self::CallsFull => "calls_full",
            Self::ReadFault => "read_fault",
            Self::EndMissed => "end_missed",
            Self::ProtocolUnsupported => "protocol_unsupported",
            Self::HeadIncomplete => "head_incomplete",
            Self::Sw8Malformed => "sw8_malformed",
            Self::HeaderTooLong => "header_too_long",
            Self::PropagationEncrypted => "propagation_encrypted",
            Self::PropagationPresent => "propagation_present",
            Self::PropagationUnknownConnection => "propagation_unknown_connection",
            Self::PropagationNoRequestLine => "propagation_no_request_line",
            Self::PropagationRefused => "propagation_refused",
            Self::PropagationTooLong => "propagation_too_long",
            Self::PropagationNotEnrolled => "propagation_not_enrolled",
            Self::ScratchBusy => "scratch_busy",
            Self::EnrolRefused => "enrol_refused",
            Self::PropagationFramesLost => "propagation_frames_lost",
            Self::ProcessUnnoticed => "process_unnoticed",
            Self::ContextUnread => "context_unread",
        }
    }

    /// Whether a span is missing because of it; otherwise only a link between spans is, or nothing but time.
    pub const fn loses_span(self) -> bool {
        match self {
            Self::RingFull
            | Self::RequestsFull
            | Self::CallsFull
            | Self::ReadFault
            | Self::EndMissed
            | Self::ProtocolUnsupported
            | Self::ScratchBusy => true,
            Self::HeadIncomplete
            | Self::Sw8Malformed
            | Self::HeaderTooLong
            | Self::PropagationEncrypted
            | Self::PropagationPresent
            | Self::PropagationUnknownConnection
            | Self::PropagationNoRequestLine
            | Self::PropagationRefused
            | Self::PropagationTooLong
            | Self::PropagationNotEnrolled
            | Self::EnrolRefused
            | Self::PropagationFramesLost
            | Self::ProcessUnnoticed
            | Self::ContextUnread => false,
        }
    }
}

/// Entries of the per-CPU counters; room for later reasons without changing the map.
pub const LOSS_COUNTERS: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_positions() {
        for (position, reason) in LossReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, position, "{}", reason.name());
        }
    }
}
