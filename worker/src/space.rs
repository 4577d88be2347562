//! Whether the disk has room for actions.
//!
//! Asked before a slot asks for work. Where a file system has less room than
//! configured, the cache, if it is there, gives back what is lacking; where that is
//! not enough the slot is *out of service*: it asks for no work, and asks again,
//! after a pause, whether there is room. That it went and that it came back is said
//! once, whatever the number of slots.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use daemon::Metrics;
use daemon::metrics::Gauge;
use nix::errno::Errno;
use nix::sys::stat::fstat;
use nix::sys::statvfs::fstatvfs;

use crate::Error;
use crate::cache::FileCache;
use crate::memory::lock;

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// For files of users other than root.
    pub(crate) bytes: u64,
    /// Inodes. As many as can be where the file system does not count them.
    pub(crate) inodes: u64,
}

/// One file system.
struct Place {
    /// The directory it was configured by.
    path: String,
    directory: OwnedFd,
    /// The cache is there.
    caches: bool,
}

/// The file systems that actions need room on.
pub(crate) struct Space {
    cache: Arc<FileCache>,
    places: Vec<Place>,
    minimum: Room,
    /// How the room of a place is found out.
    measure: fn(&OwnedFd) -> Result<Room, Errno>,
    /// Whether there was too little the last time.
    short: Mutex<bool>,
    gauge: Gauge,
}

impl Space {
    /// Watches the file systems of the cache and of the build directory.
    ///
    /// # Errors
    /// A directory cannot be looked at.
    pub(crate) fn new(
        cache: Arc<FileCache>,
        build: (String, OwnedFd),
        minimum: Room,
    ) -> Result<Self, Errno> {
        let incoming = cache.incoming_directory().try_clone_to_owned();
        let incoming = incoming.map_err(|error| crate::files::errno(&error))?;
        let device = fstat(&incoming)?.st_dev;
        let same = fstat(&build.1)?.st_dev == device;
        let mut places = vec![Place {
            path: build.0,
            directory: build.1,
            caches: same,
        }];
        if !same {
            places.push(Place {
                path: "the file cache".into(),
                directory: incoming,
                caches: true,
            });
        }
        Ok(Self {
            cache,
            places,
            minimum,
            measure,
            short: Mutex::new(false),
            gauge: Gauge::default(),
        })
    }

    /// Registers whether there is room.
    pub(crate) fn register(&self, metrics: &Metrics) {
        metrics.register(
            "hayloft_worker_disk_full",
            "Whether slots are out of service for want of room on the disk",
            self.gauge.clone(),
        );
    }

    /// Whether there is room for an action, after the cache gave back what it can.
    ///
    /// # Errors
    /// [`Error::NoRoom`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        let mut short = lock(&self.short);
        let lacking = self
            .places
            .iter()
            .find_map(|place| self.lacking(place).err());
        let was = std::mem::replace(&mut *short, lacking.is_some());
        self.gauge.set(lacking.is_some().into());
        match lacking {
            None if was => tracing::info!("there is room on the disk again: back in service"),
            Some(error) => {
                if !was {
                    tracing::error!(%error, "out of service until there is room");
                }
                return Err(error);
            }
            None => {}
        }
        Ok(())
    }

    fn lacking(&self, place: &Place) -> Result<(), Error> {
        let measure = || {
            (self.measure)(&place.directory)
                .map_err(Error::file("measure the room of", &place.path))
        };
        let mut free = measure()?;
        if place.caches && !free.covers(self.minimum) {
            let bytes = self.minimum.bytes.saturating_sub(free.bytes);
            let inodes = self.minimum.inodes.saturating_sub(free.inodes);
            self.cache.give_back(bytes, inodes);
            free = measure()?;
        }
        let room = |what, free, needed| Error::NoRoom {
            path: place.path.clone(),
            what,
            free,
            needed,
        };
        if free.bytes < self.minimum.bytes {
            return Err(room("bytes", free.bytes, self.minimum.bytes));
        }
        if free.inodes < self.minimum.inodes {
            return Err(room("inodes", free.inodes, self.minimum.inodes));
        }
        Ok(())
    }
}

impl Room {
    fn covers(self, minimum: Self) -> bool {
        self.bytes >= minimum.bytes && self.inodes >= minimum.inodes
    }
}

fn measure(directory: &OwnedFd) -> Result<Room, Errno> {
    let found = fstatvfs(directory.as_fd())?;
    Ok(Room {
        bytes: found.blocks_available() * found.fragment_size(),
        inodes: match found.files() {
            // btrfs, for one, makes them as needed.
            0 => u64::MAX,
            _ => found.files_available(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Key, Limits, ReplacementPolicy, Tenant};
    use crate::downloads::Downloads;
    use crate::files;
    use crate::testing::FakeStorage;
    use proto::InstanceName;

    /// A disk of 8 MiB that has 100 inodes, as seen from one directory of it.
    fn small_disk(directory: &OwnedFd) -> Result<Room, Errno> {
        let mut used = Room {
            bytes: 0,
            inodes: 0,
        };
        for folder in [".", ".."] {
            let folder = nix::fcntl::openat(
                directory,
                folder,
                nix::fcntl::OFlag::O_RDONLY,
                nix::sys::stat::Mode::empty(),
            )?;
            for (name, _) in files::entries(&folder, usize::MAX)? {
                let stat = files::stat_at(&folder, name.as_c_str())?;
                used.bytes += stat.st_blocks.unsigned_abs() * 512;
                used.inodes += 1;
            }
        }
        Ok(Room {
            bytes: (8_u64 << 20).saturating_sub(used.bytes),
            inodes: 100_u64.saturating_sub(used.inodes),
        })
    }

    #[tokio::test]
    async fn the_cache_gives_way_and_then_the_slot() {
        let folder = tempfile::tempdir().unwrap();
        let cache_path = folder.path().join("cache");
        std::fs::create_dir(&cache_path).unwrap();
        let storage = FakeStorage::new();
        let limits = Limits {
            bytes: 1 << 30,
            files: 1000,
            policy: ReplacementPolicy::default(),
            tenant_components: 0,
            writable: false,
        };
        let downloads = Arc::new(Downloads::new(1));
        let cache = FileCache::open(&cache_path, limits, storage.clone(), downloads).unwrap();
        let keys: Vec<Key> = (0..6_u8)
            .map(|n| Key {
                tenant: Tenant::SHARED,
                digest: storage.put(vec![n; 1 << 20]),
                executable: false,
            })
            .collect();
        let instance = InstanceName::empty();
        drop(cache.acquire(&instance, keys.clone()).await.unwrap());
        let build = files::open_configured(&cache_path.join("incoming")).unwrap();
        let minimum = Room {
            bytes: 4 << 20,
            inodes: 10,
        };
        let mut space = Space::new(Arc::clone(&cache), ("build".into(), build), minimum).unwrap();
        space.measure = small_disk;
        // Two of them, and what the directories take, make room.
        space.check().unwrap();
        let left = cache.held().files;
        assert!((3..=4).contains(&left), "{left}");
        assert_eq!(space.gauge.get(), 0);

        // What is in use cannot be given back.
        let pins = cache.acquire(&instance, keys).await.unwrap();
        for _ in 0..2 {
            let Err(Error::NoRoom { what, needed, .. }) = space.check() else {
                panic!("there is room");
            };
            assert_eq!((what, needed), ("bytes", 4 << 20));
            assert_eq!(space.gauge.get(), 1);
        }
        drop(pins);
        space.check().unwrap();
        assert_eq!(space.gauge.get(), 0);

        for n in 0..100 {
            std::fs::write(cache_path.join(format!("incoming/{n}")), "").unwrap();
        }
        let refused = space.check();
        assert!(matches!(
            refused,
            Err(Error::NoRoom {
                what: "inodes",
                free: 0,
                ..
            })
        ));
        assert_eq!(cache.held().files, 0);
    }

    #[test]
    fn a_real_file_system_has_room() {
        let folder = tempfile::tempdir().unwrap();
        let directory = files::open_configured(folder.path()).unwrap();
        let room = measure(&directory).unwrap();
        assert!(room.bytes > 0 && room.inodes > 0);
    }
}
