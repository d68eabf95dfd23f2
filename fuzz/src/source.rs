//! Bytes of a fuzzer, taken apart into what a target needs.

use bytes::{BufMut, Bytes, BytesMut};

/// What is left of an input. An input that ends early gives zeros, so that every input means something.
#[derive(Debug)]
pub struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    /// All of an input.
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// One of `count` choices.
    pub fn pick(&mut self, count: u8) -> u8 {
        self.byte() % count
    }

    /// Small numbers mostly, and those at the ends of what a number can be.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => u64::MAX - 1,
            253 => 1 << 63,
            252 => u64::from(u32::MAX),
            251 => {
                let mut bytes = [0; 8];
                bytes.iter_mut().for_each(|byte| *byte = self.byte());
                u64::from_be_bytes(bytes)
            }
            small => u64::from(small),
        }
    }

    /// `expected` for most inputs, so that whole inputs fit together, and anything for the others.
    pub fn near(&mut self, expected: u64) -> u64 {
        match self.byte() {
            255 => self.number(),
            254 => expected.wrapping_add(1),
            253 => expected.wrapping_sub(1),
            _ => expected,
        }
    }

    /// Bytes behind their own length.
    pub fn bytes(&mut self) -> Bytes {
        let length = usize::from(self.byte());
        self.take(length)
    }

    /// Bytes behind a length of two bytes.
    pub fn long_bytes(&mut self) -> Bytes {
        let length = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
        self.take(length)
    }

    /// Everything left.
    pub fn rest(&mut self) -> Bytes {
        self.take(self.0.len())
    }

    fn take(&mut self, length: usize) -> Bytes {
        let (bytes, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        Bytes::copy_from_slice(bytes)
    }
}

/// `body` with its CRC32C behind it: a fuzzer does not find a checksum by chance, and what is behind it matters.
pub fn with_crc(body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::from(body);
    bytes.put_u32_le(crc32c::crc32c(body));
    bytes.freeze()
}

/// An input as [`Source::long_bytes`] takes it apart.
pub fn put_long(to: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("seeds are small");
    to.extend_from_slice(&length.to_le_bytes());
    to.extend_from_slice(bytes);
}

/// Runs a target on its seeds and on its corpus in the repository, as the tests do without a fuzzer. At least one input
/// must be accepted and one refused, or the corpus shows nothing. With `BEQUEST_CORPUS=write` the seeds are put into the
/// corpus, where fuzzers begin.
#[cfg(test)]
pub fn replay(target: &str, run: impl Fn(&[u8]) -> bool, seeds: &[Vec<u8>]) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    if std::env::var("BEQUEST_CORPUS").is_ok_and(|value| value == "write") {
        std::fs::create_dir_all(&folder).expect("the corpus can be written");
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed).expect("the corpus can be written");
        }
    }
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a file of the corpus").path()).collect();
    paths.sort();
    let (mut accepted, mut refused) = (0, 0);
    for path in &paths {
        let input = std::fs::read(path).expect("a file of the corpus");
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&input)));
        match outcome {
            Ok(true) => accepted += 1,
            Ok(false) => refused += 1,
            Err(_) => panic!("{target} failed on {}", path.display()),
        }
    }
    let seeds_kept =
        seeds.iter().all(|seed| paths.iter().any(|path| std::fs::read(path).is_ok_and(|kept| kept == *seed)));
    assert!(seeds_kept, "{target}: a seed is not in the corpus; BEQUEST_CORPUS=write puts it there");
    assert!(accepted > 0 && refused > 0, "{target}: accepted={accepted} refused={refused}");
}
