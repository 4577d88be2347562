//! Character devices in input roots (Buildbarn's `input_root_character_device_nodes`),
//! for runners that make the input root the root directory and supply no `/dev`.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::libc::dev_t;
use nix::sys::stat::{Mode, SFlag, mknodat, stat};
use proto::Component;

use crate::Error;
use crate::files;

const KEY: &str = "runners.input_root_character_device_nodes";

/// Devices of this machine's `/dev`, by name.
pub(crate) struct Devices(Vec<(Component, dev_t)>);

impl Devices {
    /// Looks them up.
    ///
    /// # Errors
    /// One is no name, or no character device.
    pub(crate) fn find(names: &[String]) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Configuration { key: KEY, reason };
        let find = |name: &String| {
            let name = Component::new(name).map_err(|error| refuse(error.to_string()))?;
            let found = stat(format!("/dev/{name}").as_str())
                .map_err(|errno| refuse(format!("cannot look at /dev/{name}: {errno}")))?;
            let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
            if kind != SFlag::S_IFCHR {
                return Err(refuse(format!("/dev/{name} is no character device")));
            }
            Ok((name, found.st_rdev))
        };
        names.iter().map(find).collect::<Result<_, _>>().map(Self)
    }

    /// Makes them in `dev` of an input root, for all to read and write.
    ///
    /// # Errors
    /// The worker lacks `CAP_MKNOD`; something of the name is there.
    pub(crate) fn make(&self, root: &OwnedFd) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let directory = match files::make_directory(root, "dev", 0o777) {
            Err(Errno::EEXIST) => files::open_directory(root, "dev"),
            other => other,
        };
        let directory = directory.map_err(Error::file("make", "dev"))?;
        let mode = Mode::from_bits_truncate(0o666);
        for (name, device) in &self.0 {
            mknodat(&directory, name.as_str(), SFlag::S_IFCHR, mode, *device)
                .map_err(Error::file("make device node", format!("dev/{name}")))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    #[test]
    fn devices_are_made_beside_what_is_there() {
        let name = "devices_are_made_beside_what_is_there";
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP {name}: device nodes need root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("dev")).unwrap();
        std::fs::write(folder.path().join("dev/input"), "").unwrap();
        let root = files::open_configured(folder.path()).unwrap();
        let devices = Devices::find(&["null".into(), "zero".into()]).unwrap();
        devices.make(&root).unwrap();
        for name in ["null", "zero"] {
            let made = folder.path().join("dev").join(name).metadata().unwrap();
            assert!(made.file_type().is_char_device());
            let own = std::fs::metadata(format!("/dev/{name}")).unwrap();
            assert_eq!(made.rdev(), own.rdev());
        }
        // An input of that name is in the way.
        assert!(devices.make(&root).is_err());
    }

    #[test]
    fn only_character_devices_are_taken() {
        for name in ["../null", "", "no such device", "fd"] {
            assert!(Devices::find(&[name.into()]).is_err(), "{name}");
        }
        let folder = tempfile::tempdir().unwrap();
        let root = files::open_configured(folder.path()).unwrap();
        Devices::find(&[]).unwrap().make(&root).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
