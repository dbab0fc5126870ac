#!/bin/sh
# Put Fashion-MNIST's four files (31 MB) into data/fashion-mnist, from Debian's package, without installing it.
# Does nothing where `wvq` finds them already; says so and succeeds where there is no apt.
set -eu
target=data/fashion-mnist
for folder in "$target" /usr/share/datasets/fashion-mnist; do
    if [ -f "$folder/train-images-idx3-ubyte.gz" ]; then exit 0; fi
done
if ! command -v apt-get > /dev/null || ! command -v dpkg-deb > /dev/null; then
    echo "no apt here: Fashion-MNIST will come from the Hugging Face hub"
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
(
    cd "$work"
    apt-get download -qq dataset-fashion-mnist 2> /dev/null ||
        { apt-get update -qq && apt-get download -qq dataset-fashion-mnist; }
    dpkg-deb -x dataset-fashion-mnist_*.deb unpacked
) || { echo "apt has no dataset-fashion-mnist: it will come from the Hugging Face hub"; exit 0; }
mkdir -p data
mv "$work/unpacked/usr/share/datasets/fashion-mnist" "$work/fashion-mnist"
mv "$work/fashion-mnist" "$target"
