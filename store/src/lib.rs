//! Replicated blocks behind object_store::ObjectStore, and the registry of stores
