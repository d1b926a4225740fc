//! What the start and each attaching leave behind in the heap, given back.

/// Hands free memory back to the kernel. Reading a binary and loading programs takes some megabytes in small pieces,
/// of which a few stay in use: without this call the C library keeps all pages below the last of them for good.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: may be called at any time, from any thread; there is no safe way to it.
        #[expect(unsafe_code, reason = "a call of the C library")]
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
