//! Distances of all pairs of pnodes, both ways: two bytes each, as hosts have up to 1,024 nodes.

/// A symmetric table; a pnode is 0 from itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    side: usize,
    cells: Vec<u16>,
}

impl Pairs {
    /// Asks `distance` for each two of `side` pnodes.
    pub fn from_fn(side: usize, mut distance: impl FnMut(usize, usize) -> u16) -> Self {
        let mut cells = vec![0; side * side];
        for a in 0..side {
            for b in 0..a {
                let value = distance(a, b);
                cells[a * side + b] = value;
                cells[b * side + a] = value;
            }
        }
        Self { side, cells }
    }

    /// How many pnodes.
    pub fn side(&self) -> usize {
        self.side
    }

    /// The distances of one pnode to each.
    pub fn row(&self, a: usize) -> &[u16] {
        &self.cells[a * self.side..(a + 1) * self.side]
    }

    /// The distance of two.
    pub fn get(&self, a: usize, b: usize) -> u64 {
        u64::from(self.row(a)[b])
    }

    /// The sum over all pairs of a set.
    pub fn within(&self, set: &[usize]) -> u64 {
        let pairs = set.iter().enumerate().flat_map(|(i, a)| set[..i].iter().map(move |b| (*a, *b)));
        pairs.map(|(a, b)| self.get(a, b)).sum()
    }

    /// What the table takes.
    pub fn bytes(&self) -> u64 {
        (self.cells.len() * size_of::<u16>()) as u64
    }
}
