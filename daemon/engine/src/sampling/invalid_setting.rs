//! Range check of sampling parameters.
//!
//! Owns the error for a value out of range. The ranges themselves are in the protocol.

use ingle_protocol::sampling::SamplingParameter;

/// A sampler setting out of its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("`{field}` must be {expected}, not {found}")]
pub struct InvalidSetting {
    /// The parameter's name.
    pub field: &'static str,
    /// The valid values.
    pub expected: &'static str,
    /// The found value.
    pub found: f32,
}

/// Checks that `found` is in the range of `parameter`.
pub(super) fn check(parameter: &SamplingParameter, found: f32) -> Result<(), InvalidSetting> {
    let SamplingParameter { name: field, expected, .. } = *parameter;
    // NaN is in no range, so it is refused too.
    let is_fine = parameter.range().contains(&found);
    is_fine.then_some(()).ok_or(InvalidSetting { field, expected, found })
}
