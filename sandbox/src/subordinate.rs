//! Subordinate ids of a user (`subuid(5)`, `subgid(5)`).

use std::fmt;

use nix::unistd::Uid;

/// A range of ids that a user may map besides its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subordinate {
    /// The first.
    pub start: u32,
    /// How many.
    pub count: u32,
}

impl Subordinate {
    fn end(self) -> u64 {
        u64::from(self.start) + u64::from(self.count)
    }

    /// Whether all ids of another range are of this one.
    #[must_use]
    pub fn holds(self, start: u32, count: u32) -> bool {
        let end = u64::from(start) + u64::from(count);
        start >= self.start && end <= self.end()
    }

    fn common(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        let count = u32::try_from(end.checked_sub(start.into())?).ok()?;
        (count > 0).then_some(Self { start, count })
    }
}

impl fmt::Display for Subordinate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.count)
    }
}

/// Whether the programs that map them are there.
pub(crate) fn installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    ["newuidmap", "newgidmap"].into_iter().all(|program| {
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    })
}

/// Those that are the user's both as uids and as gids. A user who is not in the file
/// `/etc/passwd` is known there by number: the C library's look-up, which asks other
/// services too, loads libraries, which a static program cannot.
pub(crate) fn of(user: Uid) -> Vec<Subordinate> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let users = read("/etc/passwd");
    let name = name(&users, user);
    let listed = |path| parse(&read(path), user, name);
    let groups = listed("/etc/subgid");
    listed("/etc/subuid")
        .into_iter()
        .flat_map(|users| groups.iter().filter_map(move |g| users.common(*g)))
        .collect()
}

/// The user's name (`passwd(5)`).
fn name(users: &str, user: Uid) -> Option<&str> {
    let number = user.to_string();
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then_some(name)
    })
}

/// `OWNER:START:COUNT` lines, the owner by name or number.
fn parse(text: &str, user: Uid, name: Option<&str>) -> Vec<Subordinate> {
    let number = user.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let owner = fields.next()?;
            let (start, count) = (fields.next()?, fields.next()?);
            (owner == number || Some(owner) == name).then_some(())?;
            Some(Subordinate {
                start: start.trim().parse().ok()?,
                count: count.trim().parse().ok()?,
            })
        })
        .filter(|range| range.start > 0 && range.count > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_the_name_that_passwd_says() {
        let users = "root:x:0:0:root:/root:/bin/sh\n\nann:x:7:8::/:/bin/sh\nx:x\n";
        assert_eq!(name(users, Uid::from_raw(7)), Some("ann"));
        assert_eq!(name(users, Uid::from_raw(8)), None);
    }

    #[test]
    fn lines_of_the_user_are_read_and_others_not() {
        let text = "ann:100000:65536\n7:300000:10\nbob:1:2\n# no line\nann:x:1\nann:5:0\n";
        let ranges = parse(text, Uid::from_raw(7), Some("ann"));
        let texts: Vec<_> = ranges.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["100000+65536", "300000+10"]);
    }

    #[test]
    fn what_is_common_is_usable() {
        let range = |start, count| Subordinate { start, count };
        assert_eq!(range(10, 10).common(range(15, 10)), Some(range(15, 5)));
        assert_eq!(range(10, 5).common(range(15, 5)), None);
        assert!(range(10, 5).holds(10, 5));
        assert!(!range(10, 5).holds(9, 2));
        assert!(!range(10, 5).holds(14, 2));
        assert!(!range(10, 5).holds(u32::MAX, u32::MAX));
    }
}
