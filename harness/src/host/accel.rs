//! Which accelerator works, found by running instructions on it.
//!
//! That `/dev/kvm` opens proves nothing: nested or emulated KVM may accept a guest and then emulate
//! each of its instructions, or fail at one. So QEMU runs a boot sector that enters long mode and
//! counts down from fifty million; hardware needs some 20 ms for that, an emulating kernel a
//! minute.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use contract::plan::Accel;
use serde::{Deserialize, Serialize};

/// QEMU's start, SeaBIOS and the countdown take 0.2 to 0.5 s on hardware.
const DEADLINE: Duration = Duration::from_secs(3);

/// What `isa-debug-exit` makes of the 0x10 that the boot sector writes: `(0x10 << 1) | 1`.
const COUNTED: i32 = 33;

/// The boot sector, loaded at 0x7c00, in front of padding and the 0xaa55 signature.
#[rustfmt::skip]
const BOOT_SECTOR: [u8; 136] = [
    0xfa,                                           //       cli
    0x31, 0xc0,                                     //       xor    %ax, %ax
    0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0,             //       mov    %ax, %ds; %es; %ss
    // Page tables at 0x1000, 0x2000 and 0x3000: one identity-mapped 2 MiB page.
    0xbf, 0x00, 0x10,                               //       mov    $0x1000, %di
    0xb9, 0x00, 0x18,                               //       mov    $0x1800, %cx
    0xf3, 0xab,                                     //       rep stos %ax, %es:(%di)
    0xc7, 0x06, 0x00, 0x10, 0x03, 0x20,             //       movw   $0x2003, 0x1000
    0xc7, 0x06, 0x00, 0x20, 0x03, 0x30,             //       movw   $0x3003, 0x2000
    0xc7, 0x06, 0x00, 0x30, 0x83, 0x00,             //       movw   $0x0083, 0x3000
    0x66, 0xb8, 0x00, 0x10, 0x00, 0x00,             //       mov    $0x1000, %eax
    0x0f, 0x22, 0xd8,                               //       mov    %eax, %cr3
    // CR4.PAE, EFER.LME, then CR0.PG and CR0.PE at once.
    0x66, 0xb8, 0x20, 0x00, 0x00, 0x00,             //       mov    $0x20, %eax
    0x0f, 0x22, 0xe0,                               //       mov    %eax, %cr4
    0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0,             //       mov    $0xc0000080, %ecx
    0x0f, 0x32,                                     //       rdmsr
    0x0d, 0x00, 0x01,                               //       or     $0x100, %ax
    0x0f, 0x30,                                     //       wrmsr
    0x66, 0x0f, 0x01, 0x16, 0x80, 0x7c,             //       lgdtl  0x7c80
    0x66, 0xb8, 0x01, 0x00, 0x00, 0x80,             //       mov    $0x80000001, %eax
    0x0f, 0x22, 0xc0,                               //       mov    %eax, %cr0
    0x66, 0xea, 0x59, 0x7c, 0x00, 0x00, 0x08, 0x00, //       ljmpl  $8, $0x7c59
    // Long mode.
    0xb9, 0x80, 0xf0, 0xfa, 0x02,                   //       mov    $50000000, %ecx
    0xff, 0xc9,                                     // 1:    dec    %ecx
    0x75, 0xfc,                                     //       jnz    1b
    0x66, 0xba, 0xf4, 0x00,                         //       mov    $0xf4, %dx
    0xb0, 0x10,                                     //       mov    $0x10, %al
    0xee,                                           //       out    %al, (%dx)
    0xf4,                                           //       hlt
    0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00,             //       (padding)
    // The GDT at 0x7c70: null, 64-bit code; then its pointer at 0x7c80.
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x9a, 0x20, 0x00,
    0x0f, 0x00, 0x70, 0x7c, 0x00, 0x00, 0x00, 0x00,
];

/// The result of the probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccelProbe {
    /// The accelerator to use.
    pub accel: Accel,
    /// Why, in one sentence.
    pub reason: String,
}

/// The result of an earlier probe, valid until the host reboots.
#[derive(Serialize, Deserialize)]
struct CachedProbe {
    boot_id: String,
    probe: AccelProbe,
}

/// Finds the accelerator. The result is kept in `cache` until the host reboots.
pub fn probe(cache: &Path) -> AccelProbe {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let cached =
        std::fs::read(cache).ok().and_then(|bytes| serde_json::from_slice::<CachedProbe>(&bytes).ok());
    if let Some(cached) = cached
        && !boot_id.is_empty()
        && cached.boot_id == boot_id
    {
        return cached.probe;
    }
    let probe = probe_kvm();
    let entry = CachedProbe { boot_id, probe: probe.clone() };
    if let Ok(json) = serde_json::to_vec(&entry) {
        // Without a cache the next probe takes up to three seconds again, that is all.
        let _ = cache.parent().map(std::fs::create_dir_all);
        let _ = std::fs::write(cache, json);
    }
    probe
}

fn probe_kvm() -> AccelProbe {
    let tcg = |reason: String| AccelProbe { accel: Accel::Tcg, reason };
    if let Err(e) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return tcg(format!("/dev/kvm cannot be opened ({e})"));
    }
    match count(Accel::Kvm, DEADLINE) {
        Ok(Some(took)) => AccelProbe {
            accel: Accel::Kvm,
            reason: format!("KVM ran the probe's 50 million instructions; it took {} ms", took.as_millis()),
        },
        Ok(None) => tcg(format!(
            "/dev/kvm opens, but a guest did not run 50 million instructions in {} s",
            DEADLINE.as_secs()
        )),
        Err(e) => tcg(format!("the KVM probe could not run ({e})")),
    }
}

/// Runs the boot sector; the time it took, or `None` when it did not finish.
fn count(accel: Accel, deadline: Duration) -> std::io::Result<Option<Duration>> {
    let mut sector = [0_u8; 512];
    sector[..BOOT_SECTOR.len()].copy_from_slice(&BOOT_SECTOR);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut floppy = tempfile::NamedTempFile::with_prefix("freezeframe-probe-")?;
    floppy.write_all(&sector)?;

    let start = Instant::now();
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-accel", &accel.to_string(), "-machine", "pc", "-m", "16"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .arg("-drive")
        .arg(drive(floppy.path()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let code = wait_until(&mut qemu, start + deadline)?;
    Ok((code == Some(COUNTED)).then(|| start.elapsed()))
}

/// The option for a floppy disk. Commas separate its parts, and are doubled in a value.
fn drive(floppy: &Path) -> String {
    format!("if=floppy,format=raw,file={}", floppy.to_string_lossy().replace(',', ",,"))
}

/// The exit code, or `None` when the deadline came first; then the child is killed.
fn wait_until(child: &mut Child, deadline: Instant) -> std::io::Result<Option<i32>> {
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also a control of the probe: with a broken boot sector, KVM would never be found on any
    /// host.
    #[test]
    fn the_boot_sector_counts_under_emulation() {
        let took = count(Accel::Tcg, Duration::from_secs(60)).expect("qemu-system-x86_64 runs");
        assert!(took.is_some());
    }

    #[test]
    fn any_directory_for_temporary_files_will_do() {
        assert_eq!(drive(Path::new("/t mp, 100%/f")), "if=floppy,format=raw,file=/t mp,, 100%/f");
    }

    #[test]
    fn a_deadline_ends_the_probe() {
        assert_eq!(count(Accel::Tcg, Duration::from_millis(1)).expect("qemu-system-x86_64 runs"), None);
    }
}
