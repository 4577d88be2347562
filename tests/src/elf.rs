//! The smallest programs there are, each different from all others.

/// A program that ends at once with `code`, made different by `unique` and
/// brought to at least `size` bytes. A static ELF file of one segment: it needs
/// no loader and no library, so that running it costs what exec costs.
///
/// # Panics
/// This machine's instructions are not known here.
#[must_use]
pub fn tiny(code: u8, unique: u64, size: usize) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let (machine, instructions): (u16, Vec<u8>) = match std::env::consts::ARCH {
        // mov edi, code; mov eax, 60 (exit); syscall
        "x86_64" => (62, vec![0xbf, code, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]),
        // mov x0, #code; mov x8, #93 (exit); svc #0
        "aarch64" => {
            let load = 0xd280_0000_u32 | u32::from(code) << 5;
            (
                183,
                [load, 0xd280_0ba8, 0xd400_0001]
                    .iter()
                    .flat_map(|word| word.to_le_bytes())
                    .collect(),
            )
        }
        other => panic!("no instructions for {other}"),
    };
    let length = HEADERS + instructions.len() as u64;
    // elf(5): the file's header, then one program header.
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(2_u16.to_le_bytes()); // ET_EXEC
    file.extend(machine.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    file.extend((BASE + HEADERS).to_le_bytes()); // entry
    file.extend(64_u64.to_le_bytes()); // program headers
    file.extend(0_u64.to_le_bytes()); // no sections
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes()); // PT_LOAD
    file.extend(5_u32.to_le_bytes()); // readable, executable
    for word in [0, BASE, BASE, length, length, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(instructions);
    file.extend(unique.to_le_bytes());
    file.resize(file.len().max(size), 0);
    file
}
