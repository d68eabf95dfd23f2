//! Accounts that transfers move money between: whatever is lost, doubled or cut in half shows in their sum.

/// Accounts there are.
pub const ACCOUNTS: usize = 5;

/// What each account holds at first.
pub const OPENING: i64 = 100;

// Keys from here on are not lists: each names the two accounts of a transfer.
const TRANSFERS: u64 = 1 << 32;

/// What became of each account's balance since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounts(pub [i64; ACCOUNTS]);

/// The key of transfers from one account to another.
pub fn transfer(from: usize, to: usize) -> u64 {
    TRANSFERS + (from * ACCOUNTS + to) as u64
}

/// The two accounts that a key names, if it is a transfer's.
pub fn between(key: u64) -> Option<(usize, usize)> {
    let pair = usize::try_from(key.checked_sub(TRANSFERS)?).ok().filter(|pair| *pair < ACCOUNTS * ACCOUNTS)?;
    Some((pair / ACCOUNTS, pair % ACCOUNTS))
}

impl Accounts {
    /// Moves what the value says, unless the account would be overdrawn; `false` if it would.
    pub fn transfer(&mut self, (from, to): (usize, usize), value: u64) -> bool {
        let amount = 1 + (value % 90) as i64;
        if OPENING + self.0[from] < amount {
            return false;
        }
        self.0[from] -= amount;
        self.0[to] += amount;
        true
    }

    /// Whether nothing was ever moved.
    pub fn untouched(&self) -> bool {
        self.0 == [0; ACCOUNTS]
    }

    /// Panics unless all the money there ever was is there.
    pub fn check(&self) {
        assert_eq!(self.0.iter().sum::<i64>(), 0, "I5: the accounts' sum changed: {self:?}");
        assert!(self.0.iter().all(|change| OPENING + change >= 0), "I5: overdrawn: {self:?}");
    }
}
