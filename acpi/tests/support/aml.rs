//! Walks the part of AML that a DSDT of ours uses (ACPI 6.5, chapter 20): scopes, devices, names, methods, fields.
//! The bodies of methods are handed out as bytes.

use super::parse::Reader;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Integer(u64),
    Text(String),
    Buffer(Vec<u8>),
    Package(Vec<Value>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    Scope(String, Vec<Term>),
    Device(String, Vec<Term>),
    Name(String, Value),
    Method { name: String, flags: u8, body: Vec<u8> },
    Region { name: String, space: u8, offset: Value, length: Value },
    Field(Vec<u8>),
}

impl Term {
    pub fn name(&self) -> &str {
        match self {
            Term::Scope(name, _)
            | Term::Device(name, _)
            | Term::Name(name, _)
            | Term::Method { name, .. }
            | Term::Region { name, .. } => name,
            Term::Field(_) => "",
        }
    }

    /// What is inside, by name.
    pub fn get(&self, name: &str) -> Option<&Term> {
        match self {
            Term::Scope(_, terms) | Term::Device(_, terms) => find(terms, name),
            _ => None,
        }
    }

    /// The value of a name inside.
    pub fn value(&self, name: &str) -> Option<&Value> {
        match self.get(name) {
            Some(Term::Name(_, value)) => Some(value),
            _ => None,
        }
    }

    /// What the method inside returns, which must be an integer constant.
    pub fn returns(&self, name: &str) -> Option<u64> {
        let Some(Term::Method { flags: 0, body, .. }) = self.get(name) else { return None };
        let mut reader = Reader(body);
        assert_eq!(reader.u8(), 0xa4, "a return");
        let result = value(&mut reader);
        assert!(reader.is_empty());
        match result {
            Value::Integer(number) => Some(number),
            other => panic!("{other:?} is no integer"),
        }
    }
}

pub fn find<'a>(terms: &'a [Term], name: &str) -> Option<&'a Term> {
    terms.iter().find(|term| term.name() == name)
}

pub fn terms(bytes: &[u8]) -> Vec<Term> {
    let mut reader = Reader(bytes);
    let mut terms = Vec::new();
    while !reader.is_empty() {
        terms.push(term(&mut reader));
    }
    terms
}

fn term(reader: &mut Reader) -> Term {
    match reader.u8() {
        0x08 => Term::Name(name(reader), value(reader)),
        0x10 => {
            let mut inside = package(reader);
            Term::Scope(name(&mut inside), terms(inside.0))
        }
        0x14 => {
            let mut inside = package(reader);
            Term::Method { name: name(&mut inside), flags: inside.u8(), body: inside.0.to_vec() }
        }
        0x5b => match reader.u8() {
            0x80 => Term::Region {
                name: name(reader),
                space: reader.u8(),
                offset: value(reader),
                length: value(reader),
            },
            0x81 => Term::Field(package(reader).0.to_vec()),
            0x82 => {
                let mut inside = package(reader);
                Term::Device(name(&mut inside), terms(inside.0))
            }
            other => panic!("unexpected opcode 5b {other:#x}"),
        },
        other => panic!("unexpected opcode {other:#x}"),
    }
}

/// A single segment, which is what definitions of ours have.
fn name(reader: &mut Reader) -> String {
    String::from_utf8(reader.take(4).to_vec()).expect("names are letters")
}

/// A package length and what it covers (ACPI 6.5, 20.2.4).
fn package<'a>(reader: &mut Reader<'a>) -> Reader<'a> {
    let lead = reader.u8();
    let more = usize::from(lead >> 6);
    let mut length = if more == 0 { usize::from(lead & 0x3f) } else { usize::from(lead & 0xf) };
    for index in 0..more {
        length |= usize::from(reader.u8()) << (4 + 8 * index);
    }
    Reader(reader.take(length - 1 - more))
}

fn value(reader: &mut Reader) -> Value {
    match reader.u8() {
        0x00 => Value::Integer(0),
        0x01 => Value::Integer(1),
        0x0a => Value::Integer(u64::from(reader.u8())),
        0x0b => Value::Integer(u64::from(reader.u16())),
        0x0c => Value::Integer(u64::from(reader.u32())),
        0x0e => Value::Integer(reader.u64()),
        0x0d => {
            let length = reader.0.iter().position(|&byte| byte == 0).expect("strings end");
            let text = String::from_utf8(reader.take(length).to_vec()).expect("ascii");
            reader.zeros(1);
            Value::Text(text)
        }
        0x11 => {
            let mut inside = package(reader);
            let length = value(&mut inside);
            assert_eq!(length, Value::Integer(u64::try_from(inside.0.len()).expect("small")));
            Value::Buffer(inside.0.to_vec())
        }
        0x12 => {
            let mut inside = package(reader);
            let count = inside.u8();
            let elements = (0..count).map(|_| value(&mut inside)).collect();
            assert!(inside.is_empty());
            Value::Package(elements)
        }
        other => panic!("unexpected opcode {other:#x} for a value"),
    }
}
