//! What the correlator may fail at.

/// What did not go as it should, and what that means for its spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TraceLoss {
    /// The record of a process that is not traced, or no longer. A span is lost.
    TargetUnknown,
    /// A request's segment was sent without a call that was announced: its record was lost or is late. Counts calls.
    CallMissing,
    /// A call came after its request's segment had been sent. It is a segment of its own.
    CallLate,
    /// A request's end was not seen in time. Its calls are reported without it. Counts calls.
    RequestMissing,
    /// Too many spans waited for the rest of their segment; the oldest were sent as they were. Counts segments.
    HeldFull,
    /// The service has too many distinct operation names. The span has a name that stands for many.
    NameOverflow,
    /// The kernel side continued an `sw8` that cannot be read here. The span starts a new trace.
    Sw8Unreadable,
}

impl TraceLoss {
    /// All of them, in the order they are shown.
    pub const ALL: [Self; 7] = [
        Self::TargetUnknown,
        Self::CallMissing,
        Self::CallLate,
        Self::RequestMissing,
        Self::HeldFull,
        Self::NameOverflow,
        Self::Sw8Unreadable,
    ];

    /// The name under which it is reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TargetUnknown => "target_unknown",
            Self::CallMissing => "call_missing",
            Self::CallLate => "call_late",
            Self::RequestMissing => "request_missing",
            Self::HeldFull => "held_full",
            Self::NameOverflow => "name_overflow",
            Self::Sw8Unreadable => "sw8_unreadable",
        }
    }

    /// Whether a span is missing because of it; otherwise it is only reported differently.
    pub const fn loses_span(self) -> bool {
        match self {
            Self::TargetUnknown => true,
            // A record that was lost on its way has been counted there, and one that is late is told.
            Self::CallMissing
            | Self::CallLate
            | Self::RequestMissing
            | Self::HeldFull
            | Self::NameOverflow
            | Self::Sw8Unreadable => false,
        }
    }
}
