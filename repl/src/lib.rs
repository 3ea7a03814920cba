//! The interactive shell: a Flight SQL client and the rendering of its results
