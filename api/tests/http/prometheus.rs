//! The metrics as a strict reader of Prometheus' text format takes them, with the rules that `promtool check metrics` has
//! and those of OpenMetrics that tell whether names will still be good there.

use crate::support::{Server, kvm, wait_for};
use std::collections::{BTreeMap, BTreeSet};

const DOCS: &str = include_str!("../../../docs/api.md");

/// Names and values, in order.
type Labels = Vec<(String, String)>;
/// Name, labels and value.
type Sample = (String, Labels, f64);

#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    /// In order.
    samples: Vec<Sample>,
}

type Families = BTreeMap<String, Family>;

fn is_name(text: &str, colons: bool) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    text.starts_with(|c: char| !c.is_ascii_digit()) && !text.is_empty() && text.chars().all(allowed)
}

/// Undoes escapes; `None` for one that there is not.
fn unescaped(text: &str, quoted: bool) -> Option<String> {
    let (mut out, mut characters) = (String::new(), text.chars());
    while let Some(character) = characters.next() {
        match (character, quoted) {
            ('\\', _) => out.push(match characters.next()? {
                '\\' => '\\',
                'n' => '\n',
                '"' if quoted => '"',
                _ => return None,
            }),
            ('"', true) => return None,
            (other, _) => out.push(other),
        }
    }
    Some(out)
}

/// `name="value",...`, of which values may have anything in them that is escaped.
fn labels(mut text: &str) -> Option<Labels> {
    let mut labels = Vec::new();
    loop {
        let (name, rest) = text.split_once("=\"")?;
        let end = rest.match_indices('"').map(|(at, _)| at).find(|at| {
            let before = rest[..*at].bytes().rev().take_while(|byte| *byte == b'\\').count();
            before % 2 == 0
        })?;
        is_name(name, false).then_some(())?;
        labels.push((name.to_owned(), unescaped(&rest[..end], true)?));
        match rest[end + 1..].strip_prefix(',') {
            Some(more) => text = more,
            None => return rest[end + 1..].is_empty().then_some(labels),
        }
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, labels(rest.strip_suffix('}')?)?),
        None => (series, Vec::new()),
    };
    is_name(name, true).then(|| Some((name.to_owned(), labels, value.parse().ok()?)))?
}

/// The family of a sample: of a histogram it has a suffix.
fn belongs(name: &str, family: &str, kind: &str) -> bool {
    match name.strip_prefix(family) {
        Some("") => kind != "histogram",
        Some("_bucket" | "_sum" | "_count") => kind == "histogram",
        _ => false,
    }
}

/// Reads all of it, or says which line is wrong.
fn read(text: &str) -> Result<Families, String> {
    let mut families = Families::new();
    let mut current: Option<(String, Family)> = None;
    let keep = |families: &mut Families, done: Option<(String, Family)>| match done {
        Some((name, family)) => match families.insert(name.clone(), family) {
            Some(_) => Err(format!("{name}: comes in two places")),
            None => Ok(()),
        },
        None => Ok(()),
    };
    if !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    for line in text.lines() {
        let wrong = |what: &str| Err(format!("{what}: {line}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            keep(&mut families, current.take())?;
            let Some((name, help)) = rest.split_once(' ') else { return wrong("no help") };
            let Some(help) = unescaped(help, false) else { return wrong("an escape that there is not") };
            current = Some((name.to_owned(), Family { help, ..Family::default() }));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            match (&mut current, rest.split_once(' ')) {
                (Some((name, family)), Some((of, kind)))
                    if name == of && family.kind.is_empty() && family.samples.is_empty() =>
                {
                    family.kind = kind.to_owned();
                }
                _ => return wrong("a type without its help before it"),
            }
        } else {
            let Some(sample) = sample(line) else { return wrong("not a sample") };
            match &mut current {
                Some((name, family)) if belongs(&sample.0, name, &family.kind) => family.samples.push(sample),
                _ => return wrong("a sample of no family"),
            }
        }
    }
    keep(&mut families, current)?;
    Ok(families)
}

fn check(families: &Families) {
    let units = [
        "millisecond",
        "microsecond",
        "nanosecond",
        "minute",
        "hour",
        "kilobyte",
        "kib",
        "mib",
        "page",
        "percent",
    ];
    let mut bases = BTreeSet::new();
    for (name, family) in families {
        let Family { kind, help, samples } = family;
        assert!(["counter", "gauge", "histogram"].contains(&kind.as_str()), "{name}: {kind}");
        assert!(help.len() > 10 && help.ends_with('.'), "{name}: {help}");
        assert!(is_name(name, false), "{name}");
        assert!(name.starts_with("numavisor_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|byte| !byte.is_ascii_uppercase()), "{name}: upper case");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}: a {kind}");
        for suffix in ["_count", "_sum", "_bucket", "_gauge", "_counter", "_histogram"] {
            assert!(!name.ends_with(suffix), "{name}");
        }
        for part in name.split('_') {
            assert!(!units.iter().any(|unit| part.trim_end_matches('s') == *unit), "{name}: not a base unit");
        }
        // OpenMetrics takes a counter's suffix away, and then two families must not have one name.
        assert!(bases.insert(name.trim_end_matches("_total").to_owned()), "{name}: two families of one name");
        let mut series = BTreeSet::new();
        for (sample, labels, value) in samples {
            assert!(!value.is_nan() && *value >= 0.0, "{sample}{labels:?} {value}");
            let names: BTreeSet<&str> = labels.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names.len(), labels.len(), "{sample}{labels:?}");
            assert!(
                !names.contains("job") && !names.contains("instance"),
                "{sample}: Prometheus' own labels"
            );
            assert!(series.insert((sample, labels)), "{sample}{labels:?} comes twice");
        }
        if kind == "histogram" {
            check_histogram(name, family);
        }
    }
}

/// Buckets grow, and the last one has all.
fn check_histogram(name: &str, family: &Family) {
    let mut buckets: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    let mut counts = BTreeMap::new();
    for (sample, labels, value) in &family.samples {
        match sample.strip_prefix(name) {
            Some("_bucket") => {
                let (le, rest): (Vec<_>, Vec<_>) = labels.iter().cloned().partition(|(key, _)| key == "le");
                buckets.entry(rest).or_default().push((le[0].1.parse().unwrap(), *value));
            }
            Some("_count") => assert!(counts.insert(labels.clone(), *value).is_none()),
            _ => {}
        }
    }
    assert_eq!(buckets.len(), counts.len());
    for (labels, buckets) in buckets {
        for (one, next) in buckets.iter().zip(&buckets[1..]) {
            assert!(one.0 < next.0 && one.1 <= next.1, "{name}{labels:?}: {buckets:?}");
        }
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, counts[&labels])), "{name}{labels:?}");
    }
}

fn scraped(server: &Server) -> Families {
    let answer = server.ask("GET", "/v1/metrics");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let families = read(&answer.text).unwrap();
    check(&families);
    families
}

/// Whether the page has the name, in a list between braces or with a star too.
fn is_documented(name: &str) -> bool {
    let mut names = DOCS.split('`').skip(1).step_by(2).filter(|code| code.contains('_'));
    names.any(|code| match (code.split_once('{'), code.split_once('*')) {
        (Some((before, rest)), _) if rest.contains('}') => {
            let (list, after) = rest.split_once('}').unwrap_or_default();
            list.split(',').any(|each| name == format!("{before}{each}{after}"))
        }
        (_, Some((before, after))) => !before.is_empty() && name.starts_with(before) && name.ends_with(after),
        _ => name == code,
    })
}

#[test]
fn the_reader_is_strict() {
    let good = "# HELP a_total Help.\n# TYPE a_total counter\na_total{x=\"1,\\\"}\"} 3\n";
    let families = read(good).unwrap();
    assert_eq!(
        families["a_total"].samples,
        [("a_total".to_owned(), vec![("x".to_owned(), "1,\"}".to_owned())], 3.0)]
    );
    for bad in [
        "a_total 3\n",
        "# HELP a_total Help.\n# TYPE a_total counter\na_total 3",
        "# HELP a_total Help.\n# TYPE a_total counter\nb_total 3\n",
        "# HELP a_total Help.\n# TYPE b_total counter\n",
        "# HELP a_total Help.\n# TYPE a_total counter\na_total{x=\"\"\"} 3\n",
        "# HELP a_total Help.\n# TYPE a_total counter\na_total{x=1} 3\n",
        "# HELP a_total Help.\n# TYPE a_total counter\na_total{x=\"\\q\"} 3\n",
        "# HELP a_total Help.\n# TYPE a_total counter\na_total{x=\"1\",} 3\n",
        "# HELP a_total Help.\n# TYPE a_total counter\na_total 3 4 5x\n",
        "# HELP a_total Help.\n# TYPE a_total counter\n# HELP b B.\n# HELP a_total Help.\n",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_metrics_are_sound_without_a_vm() {
    let server = Server::serve();
    server.ask("GET", "/v1/host");
    let families = scraped(&server);
    for name in [
        "numavisor_build_info",
        "numavisor_vm_state",
        "process_cpu_seconds_total",
        "process_start_time_seconds",
    ] {
        assert!(!families[name].samples.is_empty(), "{name}");
    }
    let value = |name: &str| families[name].samples[0].2;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let started = value("process_start_time_seconds");
    assert!((now - started).abs() < 3600.0, "started at {started}, now is {now}");
    assert!(value("process_resident_memory_bytes") > 4096.0);
    let version = &families["numavisor_build_info"].samples[0].1[0];
    assert!(version.1.starts_with(env!("CARGO_PKG_VERSION")), "{version:?}");
}

#[test]
fn the_metrics_of_a_running_vm_are_sound_new_and_documented() {
    if !kvm() {
        return;
    }
    let server = Server::running();
    let families = scraped(&server);
    for name in families.keys() {
        assert!(is_documented(name), "docs/api.md does not name {name}");
    }
    assert!(!is_documented("numavisor_vnode_lost_bytes"));
    let samples = |families: &Families, name: &str| families[name].samples.clone();
    // A scrape has the measurement that it began, however long ago the last one was.
    for _ in 0..2 {
        std::thread::sleep(std::time::Duration::from_millis(700));
        let ages = samples(&scraped(&server), "numavisor_vnode_residency_age_seconds");
        assert_eq!(ages.len(), 2);
        assert!(ages.iter().all(|(.., age)| *age < 0.7), "{ages:?}");
    }
    let ran = wait_for("a vCPU's time", || {
        let ran = samples(&scraped(&server), "numavisor_vcpu_cpu_seconds_total");
        (ran.len() == 2 && ran.iter().all(|(.., seconds)| *seconds > 0.0)).then_some(ran)
    });
    assert_eq!(ran[1].1, [("vcpu".to_owned(), "1".to_owned())]);
    assert_eq!(samples(&families, "numavisor_vcpu_wait_seconds_total").len(), 2);
    let touched: f64 =
        samples(&families, "numavisor_vnode_resident_bytes").iter().map(|(.., bytes)| bytes).sum();
    let own: f64 = ["numavisor_vnode_local_bytes", "numavisor_vnode_misplaced_bytes"]
        .iter()
        .flat_map(|name| samples(&families, name))
        .map(|(.., bytes)| bytes)
        .sum();
    assert_eq!(touched, own);
}
