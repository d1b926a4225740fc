//! `traceparent`: the header of the W3C Trace Context.
