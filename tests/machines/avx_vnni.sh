#!/usr/bin/env bash
# The exactness suites on a processor with AVX-VNNI and without AVX-512, in Bochs. Usage: see suites.
#
# Bochs 3.0 (Debian 13) is a whole machine: the suites, linked statically, are the initial file system of a Debian
# kernel, and what they print comes over the serial port. Wants packages isolinux, syslinux-common, xorriso, cpio,
# busybox-static and, in /boot or named by KERNEL, the kernel of linux-image-cloud-amd64. On Debian 12, BOCHS_ROOT names
# a folder made by `debootstrap --variant=minbase --include=bochs trixie FOLDER`.
set -eu
cd "$(dirname "$0")/../.."
. tests/machines/suites

root=${BOCHS_ROOT:-}
kernel=${KERNEL:-$(ls /boot/vmlinuz-*-cloud-amd64 2>/dev/null | tail -n 1)}
target=x86_64-unknown-linux-gnu
isas="scalar avx2 avx2vnni"
work=$PWD/target/machines/bochs
# About 50 million instructions a second: 2,000 random cases a kernel, not 20,000.
cargo=(env HEPH_CASES="${HEPH_CASES:-2000}" CARGO_TARGET_DIR="$work" RUSTFLAGS="-C target-feature=+crt-static"
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$PWD/tests/machines/avx_vnni.sh --boot" cargo)

model=arrow_lake
bochs=("$root/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" "$root/usr/bin/bochs-bin")
export BXSHARE=$root/usr/share/bochs LTDL_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu/bochs/plugins
missing=""
"${bochs[@]}" --help cpu 2>&1 | grep -q $model || missing="Bochs 3.0 (Debian 13)"
for file in /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 /usr/bin/xorriso /usr/bin/cpio \
    /bin/busybox "${kernel:-/boot/vmlinuz-cloud-amd64}"; do
    [ -e "$file" ] || missing+="${missing:+, }$file"
done
[ -z "$missing" ] || { echo "no $missing"; exit 77; }

# boot PROGRAM ARGUMENT...: runs it as the one program of the machine; its exit status is this one's.
boot() {
    local machine=$work/machine init=$work/machine/init
    rm -rf "$machine" && mkdir -p "$init/"{bin,proc,sys,dev} "$init$PWD/models" "$machine/iso"
    cp /bin/busybox "$init/bin/" && cp "$1" "$init/program" && cp models/heph-story.gguf "$init$PWD/models/"
    mkdir -p "$init$PWD/crates/heph-engine"
    cat >"$init/init" <<END
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
HEPH_ISAS="$isas" /program ${*:2}
echo "the program left with \$?"
while :; do /bin/busybox sleep 1000; done
END
    chmod +x "$init/init" "$init/program"
    (cd "$init" && find . | cpio -o -H newc --quiet | gzip -1) >"$machine/iso/init.gz"
    cp "$kernel" "$machine/iso/vmlinuz"
    cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$machine/iso/"
    # The kernel patches in `rep movsb` where it finds FSRM and then overwrites memory; its clock is that of `ips`.
    cat >"$machine/iso/isolinux.cfg" <<END
default suite
label suite
kernel vmlinuz
append initrd=init.gz console=ttyS0 clearcpuid=fsrm tsc_early_khz=50000 quiet panic=-1
END
    xorriso -as mkisofs -quiet -o "$machine/disc.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 \
        -boot-info-table "$machine/iso" 2>/dev/null
    cat >"$machine/bochsrc" <<END
cpu: model=$model, ips=50000000, reset_on_triple_fault=0
memory: guest=1024, host=1024
romimage: file=$BXSHARE/BIOS-bochs-latest
vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=$machine/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$machine/serial
display_library: rfb, options="timeout=0"
clock: sync=none
log: $machine/bochs.log
END
    : >"$machine/serial"
    "${bochs[@]}" -q -f "$machine/bochsrc" >"$machine/bochs.out" 2>&1 </dev/null &
    local pid=$! began=$SECONDS
    while kill -0 "$pid" 2>/dev/null && ! grep -q '^the program left with' "$machine/serial"; do
        [ $((SECONDS - began)) -lt "${BOOT_MAX:-3000}" ] || break
        sleep 2
    done
    kill "$pid" 2>/dev/null || true
    tr -d '\r' <"$machine/serial"
    tr -d '\r' <"$machine/serial" | grep -q '^the program left with 0$'
}

case ${1:-} in
    --can-run) exit 0 ;;
    --boot) boot "${@:2}" ;;
    --planted) planted ;;
    "") suites ;;
    *) echo "unknown: $1"; exit 2 ;;
esac
