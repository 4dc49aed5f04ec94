//! The times that log lines begin with, in local time: `2026/11/22 10:00:00` and `Nov 22 10:00:00`.

pub(super) fn error_time() -> Vec<u8> {
    b"2026/11/22 10:00:00".to_vec()
}
pub(super) fn syslog_time() -> Vec<u8> {
    b"Nov 22 10:00:00".to_vec()
}
