//! Lines of a tale, and how they are put together.

/// How much a cause says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Told only where there is no other cause for an effect.
    Dull,
    /// Told where it has an effect.
    Plain,
    /// Always told.
    Loud,
}

/// Something a core wants done.
#[derive(Debug)]
pub struct Wish {
    pub words: String,
    pub read: bool,
    /// A look that showed nothing new.
    pub dropped: bool,
}

/// One step of a core, or something that happened beside.
#[derive(Debug, Default)]
pub struct Line {
    pub who: String,
    pub causes: Vec<(Weight, String)>,
    pub wishes: Vec<Wish>,
    pub dropped: bool,
}

/// Adds a cause that is not there yet.
pub fn push_once(list: &mut Vec<(Weight, String)>, cause: (Weight, String)) {
    if !list.contains(&cause) {
        list.push(cause);
    }
}

/// What a peer says, or is told, several times in a row is said once.
fn gathered<'a>(all: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    let mut before = "";
    for words in all {
        let head: usize = words.split_inclusive(' ').take(2).map(str::len).sum();
        let (head, rest) = words.split_at(head);
        let talk = head.starts_with("tell ") || head.ends_with("says ");
        match list.last_mut() {
            Some(last) if talk && head == before => last.push_str(&format!("; {rest}")),
            _ => list.push(words.to_owned()),
        }
        before = head;
    }
    list
}

/// Lines that come again and again, in the same order, are told once.
fn folded(text: &[String]) -> Vec<String> {
    let mut list = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.first() {
        let times = |length: usize| rest.chunks_exact(length).take_while(|chunk| *chunk == &rest[..length]).count();
        match (1..=6).filter(|length| *length <= rest.len()).find(|length| times(*length) > 2) {
            Some(length) => {
                let more = times(length) - 1;
                list.extend_from_slice(&rest[..length]);
                list.push(format!("..  the last {length} lines {more} times more"));
                rest = &rest[length * (more + 1)..];
            }
            None => {
                list.push(first.clone());
                rest = &rest[1..];
            }
        }
    }
    list
}

impl Line {
    fn shown(&self) -> impl Iterator<Item = &Wish> {
        self.wishes.iter().filter(|wish| !wish.dropped)
    }

    fn least(&self) -> Weight {
        let heaviest = self.causes.iter().map(|(weight, _)| *weight).max().unwrap_or(Weight::Dull);
        match self.shown().next() {
            None => Weight::Loud,
            Some(_) => heaviest.min(Weight::Plain),
        }
    }

    /// A step that does nothing but read.
    pub fn only_reads(&self) -> bool {
        !self.dropped
            && self.shown().count() > 0
            && self.shown().all(|wish| wish.read)
            && self.causes.iter().all(|(weight, _)| *weight != Weight::Loud)
    }

    /// As text, if there is something to tell.
    pub fn text(&self) -> Option<String> {
        let least = self.least();
        let causes = self.causes.iter().filter(|(weight, _)| *weight >= least).map(|(_, words)| words.as_str());
        let causes = gathered(causes);
        let mut wishes: Vec<String> = Vec::new();
        let mut reading = false;
        for wish in self.shown() {
            wishes.push(if wish.read && !reading { format!("read {}", wish.words) } else { wish.words.clone() });
            reading = wish.read;
        }
        let wishes = gathered(wishes.iter().map(String::as_str));
        match (self.dropped, causes.is_empty(), wishes.is_empty()) {
            (true, ..) | (_, true, true) => None,
            (_, _, true) => Some(format!("{}  {}", self.who, causes.join(", "))),
            (_, true, _) => Some(format!("{}  -> {}", self.who, wishes.join(", "))),
            _ => Some(format!("{}  {} -> {}", self.who, causes.join(", "), wishes.join(", "))),
        }
    }
}

/// Lines as text.
pub fn told(lines: &[Line]) -> Vec<String> {
    let mut text: Vec<String> = Vec::new();
    let mut lines = lines.iter().peekable();
    while let Some(line) = lines.next() {
        if !line.only_reads() {
            text.extend(line.text());
            continue;
        }
        // Reads that follow each other are one line, whatever answers come between.
        let mut words: Vec<&str> = line.shown().map(|wish| wish.words.as_str()).collect();
        while let Some(next) =
            lines.next_if(|next| next.text().is_none() || (next.only_reads() && next.who == line.who))
        {
            words.extend(next.shown().filter(|_| !next.dropped).map(|wish| wish.words.as_str()));
        }
        text.push(format!("{}  -> read {}", line.who, words.join(", ")));
    }
    folded(&text)
}
