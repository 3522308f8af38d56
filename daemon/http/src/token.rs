//! Bearer token of HTTP over TCP: its file and its comparison.
//!
//! Owns the file, which is created once, only its owner can read, and later daemons reuse; and the
//! comparison, which takes constant time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// Minimum length of a token that a user writes into the file.
const MIN_LENGTH: usize = 16;
/// Maximum number of bytes to read from the file.
const FILE_BYTES: u64 = 4 * 1024;

/// A token as its hash. The text itself is not kept in memory.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// The token of this text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Whether `text` is the token. Compares hashes, and always all of their bytes.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        let other = Self::new(text);
        let differing = self.0.iter().zip(other.0).fold(0, |differing, (a, b)| differing | (a ^ b));
        std::hint::black_box(differing) == 0
    }

    /// Reads the token file, or creates it.
    ///
    /// # Errors
    /// A file that cannot be read or created, belongs to another user, or holds no valid token.
    pub fn load_or_create(path: &Path) -> io::Result<Self> {
        match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
            Ok(file) => Self::read(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path),
            Err(error) => Err(error),
        }
    }

    fn read(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let refused = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem);
        if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(refused("it is not a file of the user who runs Ingle"));
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
        }
        let mut text = String::new();
        file.take(FILE_BYTES).read_to_string(&mut text)?;
        let text = text.trim();
        if text.len() < MIN_LENGTH || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refused(
                "its token is not at least 16 printable ASCII characters; remove the file to get a \
                 new one",
            ));
        }
        Ok(Self::new(text))
    }

    /// Creates the file under a temporary name first, so that a partial file is never read.
    fn create(path: &Path) -> io::Result<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let text = bytes.iter().fold("ingle-".to_owned(), |text, byte| format!("{text}{byte:02x}"));
        let draft = path.with_extension("token.new");
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        Ok(Self::new(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_file_is_created_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.token");
        let token = Token::load_or_create(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(token.is(text.trim()) && !token.is("") && !token.is(&text));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Token::load_or_create(&path).unwrap().is(text.trim()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::write(&path, "short").unwrap();
        assert!(Token::load_or_create(&path).is_err());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Token::load_or_create(&link).is_err(), "a link could lead anywhere");
    }
}
