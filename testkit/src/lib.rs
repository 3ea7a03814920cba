//! Clusters of processes and in-process, faults, script runners; development only
