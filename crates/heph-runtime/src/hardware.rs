//! What this machine is, and what fits on it.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use heph_kernels::isa::Isa;
use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// Bytes that one probe reads per pass: larger than any last-level cache we know, so memory answers.
const PROBE_BYTES: usize = 512 << 20;

/// Passes over the probe's bytes; the fastest counts, since a disturbance can only slow a pass down.
const PROBE_PASSES: usize = 4;

/// Memory kept for the system, the program, the KV cache and activations when we say what fits.
const RESERVED_BYTES: u64 = 1 << 30;

/// What a look at the machine told.
#[derive(Debug, Clone, Serialize)]
pub struct Hardware {
    /// The processor's own name.
    pub cpu: String,
    /// Physical cores.
    pub cores: usize,
    /// Hardware threads this process may use.
    pub hardware_threads: usize,
    /// Instruction sets with kernels of their own that run here, by name.
    pub instruction_sets: Vec<&'static str>,
    /// The one used unless told otherwise.
    pub instruction_set_best: &'static str,
    /// Memory of the machine, or of the container, in bytes.
    pub memory_bytes: u64,
    /// What of it is free to take, in bytes.
    pub memory_available_bytes: u64,
}

impl Hardware {
    /// Looks at the machine this process runs on.
    pub fn look() -> Self {
        let what = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(what);
        let cpus = system.as_ref().map_or(&[][..], System::cpus);
        let cpu = cpus
            .first()
            .map(|c| c.brand().trim().to_owned())
            .unwrap_or_default();
        let (memory_bytes, memory_available_bytes) = system.as_ref().map_or((0, 0), memory);
        Self {
            cpu: if cpu.is_empty() { System::cpu_arch() } else { cpu },
            cores: cores(),
            hardware_threads: hardware_threads(),
            instruction_sets: Isa::all_available().into_iter().map(Isa::name).collect(),
            instruction_set_best: Isa::best().name(),
            memory_bytes,
            memory_available_bytes,
        }
    }

    /// The largest models, by parameter count, that fit beside a small KV cache.
    pub fn fits(&self, bandwidth: Option<Bandwidth>) -> Vec<Fit> {
        let room = self.memory_available_bytes.saturating_sub(RESERVED_BYTES);
        QUANTISATIONS.iter().map(|q| q.fit(room, bandwidth)).collect()
    }
}

/// Total and available memory, the smaller of the machine's and the container's.
fn memory(system: &System) -> (u64, u64) {
    let (total, available) = (system.total_memory(), system.available_memory());
    // A group of its own may have less than the container.
    let available = available.min(crate::pressure::room().unwrap_or(u64::MAX));
    match system.cgroup_limits() {
        Some(limits) if limits.total_memory > 0 && limits.total_memory < total => {
            (limits.total_memory, available.min(limits.free_memory))
        }
        _ => (total, available),
    }
}

/// Physical cores this process may use: the count that computing threads are best set to, because two
/// hardware threads of one core share its arithmetic units and its way to memory.
pub fn cores() -> usize {
    System::physical_core_count()
        .map_or(hardware_threads(), |cores| cores.min(hardware_threads()))
        .max(1)
}

fn hardware_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// How fast memory can be read, as measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bandwidth {
    /// Threads that read.
    pub threads: usize,
    /// Bytes a second, all threads together, in the fastest pass.
    pub bytes_per_s: f64,
}

/// Measures how fast `threads` threads read memory. Takes about a second and 512 MiB; `None` where a
/// quarter of the available memory is less than that.
pub fn probe_bandwidth(threads: usize, hardware: &Hardware) -> Option<Bandwidth> {
    let fits = hardware.memory_available_bytes / 4 >= PROBE_BYTES as u64;
    fits.then(|| Bandwidth {
        threads,
        bytes_per_s: PROBE_BYTES as f64 / fastest_pass(threads).as_secs_f64(),
    })
}

fn fastest_pass(threads: usize) -> Duration {
    let words = PROBE_BYTES / size_of::<u64>();
    let data: Vec<u64> = (0..words as u64).collect();
    let passes = (0..PROBE_PASSES).map(|_| read_once(&data, threads));
    passes.min().unwrap_or(Duration::MAX)
}

/// One pass: every thread sums its share, all starting together; the time of the slowest counts.
fn read_once(data: &[u64], threads: usize) -> Duration {
    let shares = data.chunks(data.len().div_ceil(threads).max(1));
    let start = Barrier::new(shares.len());
    let read = |share: &[u64]| {
        start.wait();
        let began = Instant::now();
        black_box(share.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)));
        began.elapsed()
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = shares.map(|share| scope.spawn(move || read(share))).collect();
        readers
            .into_iter()
            .filter_map(|r| r.join().ok())
            .max()
            .unwrap_or(Duration::MAX)
    })
}

/// One way to store weights, with its size.
struct Quantisation {
    name: &'static str,
    /// Bits a parameter takes over a whole file of this kind, block scales included.
    bits_per_parameter: f64,
}

/// The usual choices, largest first. A `q4_k_m` file mixes Q4_K and Q6_K tensors, hence 4.85.
const QUANTISATIONS: &[Quantisation] = &[
    Quantisation {
        name: "f16",
        bits_per_parameter: 16.0,
    },
    Quantisation {
        name: "q8_0",
        bits_per_parameter: 8.5,
    },
    Quantisation {
        name: "q6_k",
        bits_per_parameter: 6.5625,
    },
    Quantisation {
        name: "q4_k_m",
        bits_per_parameter: 4.85,
    },
];

/// The largest model of one kind that fits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fit {
    /// How its weights are stored.
    pub quantisation: &'static str,
    /// Parameters, in billions.
    pub parameters_billion: f64,
    /// Tokens a second that the memory could feed at that size, if bandwidth was measured.
    pub decode_tok_s_limit: Option<f64>,
}

impl Quantisation {
    fn fit(&self, room_bytes: u64, bandwidth: Option<Bandwidth>) -> Fit {
        let parameters = room_bytes as f64 * 8.0 / self.bits_per_parameter;
        let limit = bandwidth
            .filter(|_| room_bytes > 0)
            .map(|b| b.bytes_per_s / room_bytes as f64);
        Fit {
            quantisation: self.name,
            parameters_billion: parameters / 1e9,
            decode_tok_s_limit: limit,
        }
    }
}

/// The most memory this process has held so far, in bytes; `None` where the system does not say.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(available: u64) -> Hardware {
        Hardware {
            memory_available_bytes: available,
            ..Hardware::look()
        }
    }

    #[test]
    fn a_machine_has_a_core_a_scalar_unit_and_memory() {
        let hardware = Hardware::look();
        assert!(hardware.cores >= 1 && hardware.cores <= hardware.hardware_threads);
        assert!(hardware.instruction_sets.contains(&"scalar"));
        assert!(hardware.memory_available_bytes <= hardware.memory_bytes);
    }

    #[test]
    fn what_fits_grows_as_weights_shrink() {
        let fits = machine(17 << 30).fits(None);
        assert!(fits.is_sorted_by(|a, b| a.parameters_billion < b.parameters_billion));
        assert!(
            (fits[0].parameters_billion - 8.59).abs() < 0.01,
            "16 GiB of f16 are 8.59 billion parameters"
        );
    }

    #[test]
    fn nothing_fits_into_no_memory() {
        let bandwidth = Some(Bandwidth {
            threads: 1,
            bytes_per_s: 1e9,
        });
        for fit in machine(1 << 20).fits(bandwidth) {
            assert_eq!((fit.parameters_billion, fit.decode_tok_s_limit), (0.0, None));
        }
    }

    #[test]
    fn a_pass_reads_every_share() {
        let data = vec![1u64; 1001];
        assert!(read_once(&data, 3) < Duration::from_secs(60));
    }

    #[test]
    fn too_little_memory_is_not_probed() {
        assert_eq!(probe_bandwidth(1, &machine(1 << 20)), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_is_at_least_what_is_held() {
        let held = black_box(vec![1u8; 32 << 20]);
        assert!(peak_memory_bytes().unwrap() >= held.len() as u64);
    }
}
