//! Values that several options read.

use std::time::Duration;

/// A time limit such as `30s`, `1.5m`, `1h30m` or plain seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = ingle_protocol::duration::parse(text);
    let duration = duration.ok_or("not a duration such as 30s, 10m or 1h30m")?;
    if duration.as_millis() == 0 {
        return Err("must be more than 0".to_owned());
    }
    Ok(duration)
}
