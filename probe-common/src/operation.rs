//! Operation names: `METHOD:/path`, one answer for both sides.
