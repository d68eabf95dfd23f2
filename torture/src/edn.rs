//! Histories as Jepsen writes them, for other people's checkers: one operation per line, each a map.
//!
//! A key's operations carry `["key" value]`, as Jepsen's independent keys do. Deleting is writing `nil`; a scan's value
//! is the prefix and a map. A swap that found another value is `:fail` with that value as its `:error`. Whoever ended
//! with `:info` asks for nothing more, and what it asked for may take effect at any later time, or never.

use std::fmt::Write;

use super::history::{Moment, Outcome, Record, Request};

/// All lines, in the order of their times.
pub(crate) fn edn(records: &[Record]) -> String {
    // Where times are equal, what ended comes after what began: the reading that allows more.
    let mut events: Vec<(Moment, bool, &Record)> = Vec::with_capacity(2 * records.len());
    for record in records {
        events.push((record.start, false, record));
        events.push((record.end, true, record));
    }
    events.sort_by_key(|(at, ended, record)| (*at, *ended, record.process));
    let mut text = String::new();
    for (index, (at, ended, record)) in events.into_iter().enumerate() {
        let (kind, value, error) = if ended { told(record) } else { ("invoke", asked(record), None) };
        let (process, function) = (record.process, function(&record.request));
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{{:process {process}, :type :{kind}, :f :{function}, :value {value}, :time {}, :index {index}",
            at.0
        );
        if let Some(error) = error {
            let _ = write!(text, ", :error {error}");
        }
        text.push_str("}\n");
    }
    text
}

fn function(request: &Request) -> &'static str {
    match request {
        Request::Read => "read",
        Request::Write(_) => "write",
        Request::Swap { .. } => "cas",
        Request::Scan => "scan",
    }
}

fn asked(record: &Record) -> String {
    let value = match &record.request {
        Request::Read | Request::Scan => "nil".to_owned(),
        Request::Write(value) => quoted(value.as_deref()),
        Request::Swap { from, to } => format!("[{} {}]", quoted(from.as_deref()), quoted(to.as_deref())),
    };
    format!("[{} {value}]", string(&record.key))
}

fn told(record: &Record) -> (&'static str, String, Option<String>) {
    let key = string(&record.key);
    match &record.outcome {
        Outcome::Done => ("ok", asked(record), None),
        Outcome::Value(value) => ("ok", format!("[{key} {}]", quoted(value.as_deref())), None),
        Outcome::Page(pairs) => {
            let pairs: Vec<String> =
                pairs.iter().map(|(key, value)| format!("{} {}", string(key), quoted(Some(value)))).collect();
            ("ok", format!("[{key} {{{}}}]", pairs.join(", ")), None)
        }
        Outcome::Conflict(current) => {
            ("fail", asked(record), Some(format!("[:conflict {}]", quoted(current.as_deref()))))
        }
        Outcome::Refused => ("fail", asked(record), Some(":refused".to_owned())),
        Outcome::Unknown => ("info", asked(record), Some(":unknown".to_owned())),
    }
}

/// Numbers as numbers: that is what registers of other tools hold.
fn quoted(value: Option<&str>) -> String {
    match value {
        None => "nil".to_owned(),
        Some(text) if text.parse::<u32>().is_ok_and(|number| number.to_string() == text) => text.to_owned(),
        Some(text) => string(text),
    }
}

fn string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(process: u64, times: (u64, u64), request: Request, outcome: Outcome) -> Record {
        let (start, end) = (Moment(times.0), Moment(times.1));
        Record { process, key: "k".to_owned(), request, start, end, outcome }
    }

    #[test]
    fn every_operation_is_two_lines_in_the_order_of_time() {
        let some = |text: &str| Some(text.to_owned());
        let records = [
            record(0, (1, 4), Request::Write(some("1")), Outcome::Done),
            record(1, (2, 3), Request::Read, Outcome::Value(None)),
            record(1, (5, 6), Request::Swap { from: some("1"), to: None }, Outcome::Conflict(some("2 a"))),
            record(2, (7, 9), Request::Write(None), Outcome::Unknown),
            record(1, (8, 10), Request::Scan, Outcome::Page(vec![("k/\"".to_owned(), "7".to_owned())])),
        ];
        let expected = r#"{:process 0, :type :invoke, :f :write, :value ["k" 1], :time 1, :index 0}
{:process 1, :type :invoke, :f :read, :value ["k" nil], :time 2, :index 1}
{:process 1, :type :ok, :f :read, :value ["k" nil], :time 3, :index 2}
{:process 0, :type :ok, :f :write, :value ["k" 1], :time 4, :index 3}
{:process 1, :type :invoke, :f :cas, :value ["k" [1 nil]], :time 5, :index 4}
{:process 1, :type :fail, :f :cas, :value ["k" [1 nil]], :time 6, :index 5, :error [:conflict "2 a"]}
{:process 2, :type :invoke, :f :write, :value ["k" nil], :time 7, :index 6}
{:process 1, :type :invoke, :f :scan, :value ["k" nil], :time 8, :index 7}
{:process 2, :type :info, :f :write, :value ["k" nil], :time 9, :index 8, :error :unknown}
{:process 1, :type :ok, :f :scan, :value ["k" {"k/\"" 7}], :time 10, :index 9}
"#;
        assert_eq!(edn(&records), expected);
    }
}
