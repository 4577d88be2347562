//! How many invocations came and went, for those who count.

/// Counts of one level of a tree of invocations, since the queue was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turnover {
    /// That came to be.
    pub created: u64,
    /// That began to have unfinished tasks.
    pub activated: u64,
    /// That ceased to.
    pub deactivated: u64,
    /// That are no more.
    pub removed: u64,
}

/// The counts by level: 0 is the root, which all invocations belong to.
#[derive(Clone, Debug)]
pub(super) struct Turnovers(Vec<Turnover>);

impl Default for Turnovers {
    fn default() -> Self {
        let root = Turnover {
            created: 1,
            ..Turnover::default()
        };
        Self(vec![root])
    }
}

impl Turnovers {
    pub(super) fn at(&mut self, depth: usize) -> &mut Turnover {
        if self.0.len() <= depth {
            self.0.resize(depth + 1, Turnover::default());
        }
        &mut self.0[depth]
    }

    pub(super) fn all(&self) -> &[Turnover] {
        &self.0
    }
}
