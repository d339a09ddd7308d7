//! Disks on files of the host, by ring and by plain calls.
