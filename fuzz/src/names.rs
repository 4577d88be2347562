use proto::wire::rev2;
use proto::{
    Component, Digest, DigestFunction, InstanceName, PlatformKey, RelativePath, ResourceName,
};

/// Resource names, instance names, paths, digests and platforms: what is taken means
/// the same when it is printed and read again, and leads nowhere outside.
///
/// # Panics
/// It does not.
pub fn names(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(name) = InstanceName::new(text) {
        assert_eq!(name.as_str(), text);
        for prefix in name.prefixes() {
            let rest = name.strip_prefix(&prefix).expect("it is a prefix");
            assert_eq!(prefix.join(&rest), name);
        }
    }
    if let Ok(name) = ResourceName::parse_read(text) {
        assert!(name.upload.is_none());
        assert_eq!(ResourceName::parse_read(&name.to_string()), Ok(name));
    }
    if let Ok(name) = ResourceName::parse_write(text) {
        assert!(name.upload.is_some());
        assert_eq!(ResourceName::parse_write(&name.to_string()), Ok(name));
    }
    if let Ok(component) = Component::new(text) {
        leads_down(&component);
    }
    if let Ok(path) = RelativePath::new(text) {
        path.components().iter().for_each(leads_down);
        assert_eq!(RelativePath::new(&path.to_string()), Ok(path.clone()));
        if let Ok(below) = path.resolve(text) {
            below.components().iter().for_each(leads_down);
        }
    }
    let (hash, size) = text.rsplit_once('/').unwrap_or((text, "0"));
    let wire = rev2::Digest {
        hash: hash.into(),
        size_bytes: size.parse().unwrap_or(-1),
    };
    for function in DigestFunction::ALL {
        if let Ok(digest) = Digest::from_wire(function, Some(&wire)) {
            assert_eq!(digest.to_wire(), wire);
        }
    }
    let properties = text.split('/').map(|property| {
        let (name, value) = property.split_once('=').unwrap_or((property, ""));
        rev2::platform::Property {
            name: name.into(),
            value: value.into(),
        }
    });
    let platform = rev2::Platform {
        properties: properties.collect(),
    };
    if let Ok(key) = PlatformKey::from_wire(Some(&platform)) {
        assert_eq!(key.to_wire(), platform);
    }
}

fn leads_down(component: &Component) {
    let name = component.as_str();
    assert!(!name.contains(['/', '\0']) && !["", ".", ".."].contains(&name));
}
