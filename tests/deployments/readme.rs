//! The README in Chinese says what the English one says.

use crate::text;

/// The depths of its headings, and its blocks of commands with all that is in them.
fn outline(page: &str) -> (Vec<usize>, Vec<String>) {
    let (mut headings, mut blocks, mut within) = (Vec::new(), Vec::new(), false);
    for line in page.lines() {
        if line.starts_with("```") {
            within = !within;
            if within {
                blocks.push(String::new());
            }
        } else if within {
            let block: &mut String = blocks.last_mut().expect("a block");
            block.push_str(line);
            block.push('\n');
        } else if line.starts_with('#') {
            headings.push(line.chars().take_while(|c| *c == '#').count());
        }
    }
    (headings, blocks)
}

#[test]
fn both_have_the_same_headings_commands_and_links() {
    let (english, chinese) = (text("README.md"), text("README.zh-CN.md"));
    let (headings, blocks) = outline(&english);
    assert!(headings.len() > 2 && blocks.len() > 3);
    assert_eq!(outline(&chinese), (headings, blocks));
    let links = |page: &str| -> Vec<String> {
        let links = page.split("](").skip(1);
        let links = links.map(|rest| rest.split(')').next().expect("a link").to_owned());
        links.filter(|link| !link.starts_with("README")).collect()
    };
    assert_eq!(links(&chinese), links(&english));
    assert!(english.contains("(README.zh-CN.md)") && chinese.contains("(README.md)"));
}

#[test]
fn links_lead_to_files_that_are_there() {
    for page in ["README.md", "deploy/README.md", "docs/migration.md"] {
        let folder = crate::project().join(page);
        let folder = folder.parent().expect("a folder");
        for rest in text(page).split("](").skip(1) {
            let link = rest.split(')').next().expect("a link");
            let path = link.split('#').next().expect("a path");
            let is_there = link.starts_with("http") || folder.join(path).exists();
            assert!(is_there, "{link} of {page}");
        }
    }
}
