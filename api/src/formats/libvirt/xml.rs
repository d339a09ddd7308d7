//! Elements and attributes with their lines, on top of an XML crate that rejects document types (and with them
//! entities). Other modules interpret the elements.

use crate::formats::Refusal;
use crate::formats::list::{ids, number, shown};
use crate::formats::notes::{LineIndex, Notes};
use resources::Bytes;
use resources::set::IdSet;
use roxmltree::{Document, Node, ParsingOptions};
use std::fmt::Display;

/// Most elements and texts: 256 cells with all distances have 2^16 siblings, and as many blanks between them.
const MAX_NODES: u32 = 1 << 18;

/// Reads a document.
pub fn parse(text: &str) -> Result<Document<'_>, Refusal> {
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).map_err(|error| {
        let line = usize::try_from(error.pos().row).unwrap_or(usize::MAX);
        match error {
            roxmltree::Error::DtdDetected => Refusal::of("document types and entities are not allowed"),
            roxmltree::Error::NodesLimitReached => {
                Refusal::of(format_args!("more than {MAX_NODES} elements and texts"))
            }
            error => Refusal::at(line, format_args!("not XML: {error}")),
        }
    })
}

/// An element; its methods blame its line.
#[derive(Clone, Copy)]
pub struct Element<'a> {
    node: Node<'a, 'a>,
    lines: &'a LineIndex,
    /// The names from the domain down to this element.
    parent: Option<&'a str>,
}

impl<'a> Element<'a> {
    /// The document's element.
    pub fn root(document: &'a Document<'a>, lines: &'a LineIndex) -> Self {
        Self { node: document.root_element(), lines, parent: None }
    }

    /// The name.
    pub fn name(self) -> &'a str {
        self.node.tag_name().name()
    }

    /// The name with that of what it stands in, for people.
    fn path(self) -> String {
        match self.parent {
            Some(parent) => format!("{parent}/{}", shown(self.name())),
            None => shown(self.name()),
        }
    }

    /// Counted from 1.
    pub fn line(self) -> usize {
        self.lines.line(self.node.range().start)
    }

    /// The elements in it.
    pub fn children(self) -> impl Iterator<Item = Element<'a>> {
        let parent = Some(self.name()).filter(|_| self.parent.is_some() || self.name() != "domain");
        let elements = self.node.children().filter(Node::is_element);
        elements.map(move |node| Element { node, lines: self.lines, parent })
    }

    /// The first element of that name in it.
    pub fn child(self, name: &str) -> Option<Element<'a>> {
        self.children().find(|child| child.name() == name)
    }

    /// The text in it, without blanks around it.
    pub fn text(self) -> &'a str {
        self.node.text().unwrap_or_default().trim()
    }

    /// An attribute.
    pub fn attribute(self, name: &str) -> Option<&'a str> {
        self.node.attribute(name)
    }

    /// A refusal about this element.
    pub fn refuse(self, why: impl Display) -> Refusal {
        Refusal::at(self.line(), format_args!("{}: {why}", self.path()))
    }

    /// A refusal about one of its attributes.
    pub fn refuse_attribute(self, name: &str, why: impl Display) -> Refusal {
        Refusal::at(self.line(), format_args!("{}/@{name}: {why}", self.path()))
    }

    /// Notes that this element is ignored.
    pub fn left_out(self, notes: &mut Notes) {
        notes.at(self.line(), format!("{} is ignored", self.path()));
    }

    /// Notes something of this element.
    pub fn note(self, what: &str, notes: &mut Notes) {
        notes.at(self.line(), format!("{}{what}", self.path()));
    }

    /// An attribute that must be there.
    pub fn needed(self, name: &str) -> Result<&'a str, Refusal> {
        self.attribute(name).ok_or_else(|| self.refuse_attribute(name, "missing, must be given"))
    }

    /// An attribute that is a number.
    pub fn number<T: TryFrom<u64>>(self, name: &str) -> Result<T, Refusal> {
        number(self.needed(name)?).map_err(|why| self.refuse_attribute(name, why))
    }

    /// An attribute that is a list of numbers; empty when it is not there.
    pub fn ids<T: Copy + From<u32> + Into<u32>>(self, name: &str) -> Result<IdSet<T>, Refusal> {
        ids(self.attribute(name).unwrap_or_default()).map_err(|why| self.refuse_attribute(name, why))
    }

    /// An attribute that is a size, in the unit that another attribute names.
    pub fn size(self, name: &str, default: &str) -> Result<Bytes, Refusal> {
        let unit = self.attribute("unit").unwrap_or(default);
        size(self.needed(name)?, unit).map_err(|why| self.refuse_attribute(name, why))
    }

    /// The text as a size.
    pub fn text_size(self) -> Result<Bytes, Refusal> {
        size(self.text(), self.attribute("unit").unwrap_or("KiB")).map_err(|why| self.refuse(why))
    }
}

/// A size, rounded up to the next KiB above 1 KiB units as libvirt does it.
fn size(text: &str, unit: &str) -> Result<Bytes, String> {
    let unit: u64 = match unit {
        "b" | "bytes" | "B" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => {
            return Err(format!(
                "unit `{}` is not one of b, KB, KiB, MB, MiB, GB, GiB, TB, TiB",
                shown(unit)
            ));
        }
    };
    let amount: u64 = number(text)?;
    amount.checked_mul(unit).map(Bytes).ok_or_else(|| format!("{} does not fit in 64 bits", shown(text)))
}
