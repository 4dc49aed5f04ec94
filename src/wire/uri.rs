//! Request targets.

/// What the bytes of a target showed on the way: enough to know whether the path is already normal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// `/.`, `//` or a fragment: the path must be normalised.
    pub complex: bool,
    /// `%`: the path must be decoded.
    pub quoted: bool,
    /// `+` in the path.
    pub plus: bool,
    /// An absolute target without a path: `http://host?args`.
    pub empty_path: bool,
    /// Where the arguments begin, behind the `?`.
    pub args: Option<u32>,
    /// Where the extension of the last segment begins, behind its last `.`.
    pub extension: Option<u32>,
}
