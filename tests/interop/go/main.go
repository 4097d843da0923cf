// Checks a witness's log with code that nobody here wrote: golang.org/x/mod/sumdb reads the tiles and proves
// from them, transparency-dev's formats and merkle read checkpoint, proofs and policy. Then it cosigns the
// checkpoint, so that our verifier can read theirs.
//
// Input: one JSON object on standard input. Output: the cosigned checkpoint and its verifier keys, as JSON.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/transparency-dev/formats/log"
	cosig "github.com/transparency-dev/formats/note"
	tlogproof "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/formats/witness"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type input struct {
	Folder      string   // checkpoint and tiles, as a web server would serve them
	Origin      string   // the log's name
	Vkeys       []string // its verifier keys: Ed25519, and perhaps ML-DSA-44
	Proofs      []string // tlog-proofs, one for each entry
	OldSize     int64
	OldRoot     string // base64
	Consistency []string
	Policy      string // a tlog-policy that the checkpoint satisfies, if any
	Unsatisfied string // one that it does not, if any
}

type output struct {
	Checkpoint string   // with our cosignatures
	Vkeys      []string // of the cosignatures: Ed25519, ML-DSA-44
}

func main() {
	var in input
	must(json.NewDecoder(os.Stdin).Decode(&in))
	checkpoint, err := os.ReadFile(filepath.Join(in.Folder, "checkpoint"))
	must(err)
	head := openCheckpoint(in, checkpoint)
	checkTiles(in, head)
	checkProofs(in, head)
	checkConsistency(in, head)
	checkPolicy(in, checkpoint)
	must(json.NewEncoder(os.Stdout).Encode(cosign(checkpoint, in)))
}

// Every signature of the log's holds, by the general reader of notes and by the one of checkpoints.
func openCheckpoint(in input, checkpoint []byte) *log.Checkpoint {
	verifiers := verifiersOf(in.Vkeys)
	opened, err := note.Open(checkpoint, note.VerifierList(verifiers...))
	must(err)
	ensure(len(opened.Sigs) == len(in.Vkeys), "a signature of the log is missing")
	head, rest, _, err := log.ParseCheckpoint(checkpoint, in.Origin, verifiers[0], verifiers[1:]...)
	must(err)
	ensure(len(rest) == 0, "the checkpoint has extension lines")
	ensure(bytes.Equal(head.Marshal(), []byte(opened.Text)), "the checkpoint does not format back")
	return head
}

func verifiersOf(vkeys []string) []note.Verifier {
	var verifiers []note.Verifier
	for i, vkey := range vkeys {
		make := note.NewVerifier
		if i > 0 {
			make = cosig.NewVerifierForCosignatureV1
		}
		verifier, err := make(vkey)
		must(err)
		verifiers = append(verifiers, verifier)
	}
	return verifiers
}

// files reads tiles as c2sp.org/tlog-tiles lays them out: without the height in the path.
type files struct{ folder string }

func (f files) Height() int                     { return 8 }
func (f files) SaveTiles([]tlog.Tile, [][]byte) {}
func (f files) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		path = strings.Replace(path, "tile/data/", "tile/entries/", 1)
		data, err := os.ReadFile(filepath.Join(f.folder, path))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

// The tiles make the signed root, and each entry of the entry bundles is proved from them.
func checkTiles(in input, head *log.Checkpoint) {
	size := int64(head.Size)
	tree := tlog.Tree{N: size, Hash: tlog.Hash(head.Hash)}
	reader := tlog.TileHashReader(tree, files{in.Folder})
	root, err := tlog.TreeHash(size, reader)
	must(err)
	ensure(bytes.Equal(root[:], head.Hash), "the tiles make another root")
	for i := int64(0); i < size; i++ {
		path, err := tlog.ProveRecord(size, i, reader)
		must(err)
		must(tlog.CheckRecord(path, size, tree.Hash, i, tlog.RecordHash(entry(in.Folder, i, size))))
	}
}

func entry(folder string, index, size int64) []byte {
	tile := tlog.Tile{H: 8, L: -1, N: index / 256, W: 256}
	if size-tile.N*256 < 256 {
		tile.W = int(size - tile.N*256)
	}
	data, err := files{folder}.ReadTiles([]tlog.Tile{tile})
	must(err)
	rest := data[0]
	for i := int64(0); ; i++ {
		length := int(rest[0])<<8 | int(rest[1])
		if i == index%256 {
			return rest[2 : 2+length]
		}
		rest = rest[2+length:]
	}
}

// Our tlog-proofs parse, format back to themselves, and hold.
func checkProofs(in input, head *log.Checkpoint) {
	for _, text := range in.Proofs {
		var parsed tlogproof.TLogProof
		must(parsed.Unmarshal([]byte(text)))
		ensure(string(parsed.Marshal()) == text, "a proof does not format back")
		under := openCheckpoint(in, parsed.Checkpoint)
		leaf := rfc6962.DefaultHasher.HashLeaf(parsed.ExtraData)
		var path [][]byte
		for _, hash := range parsed.Hashes {
			path = append(path, append([]byte{}, hash[:]...))
		}
		must(proof.VerifyInclusion(rfc6962.DefaultHasher, parsed.Index, under.Size, leaf, path, under.Hash))
	}
	ensure(uint64(len(in.Proofs)) == head.Size, "not every entry is proved")
}

func checkConsistency(in input, head *log.Checkpoint) {
	var path [][]byte
	var hashes tlog.TreeProof
	for _, text := range in.Consistency {
		path = append(path, decode(text))
		hashes = append(hashes, tlog.Hash(decode(text)))
	}
	old := decode(in.OldRoot)
	must(proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(in.OldSize), head.Size, path, old, head.Hash))
	must(tlog.CheckTree(hashes, int64(head.Size), tlog.Hash(head.Hash), in.OldSize, tlog.Hash(old)))
}

func checkPolicy(in input, checkpoint []byte) {
	for policy, wanted := range map[string]bool{in.Policy: true, in.Unsatisfied: false} {
		if policy == "" {
			continue
		}
		group, err := witness.ParsePolicy([]byte(policy))
		must(err)
		ensure(group.Satisfied(checkpoint) == wanted, "the policy is judged otherwise")
	}
}

func cosign(checkpoint []byte, in input) output {
	skey, vkey, err := note.GenerateKey(nil, "go-witness.example/w")
	must(err)
	vkey, err = cosig.VKeyToCosignatureV1(vkey)
	must(err)
	classic, err := cosig.NewSignerForCosignatureV1(skey)
	must(err)
	secret, public, err := cosig.GenerateMLDSAKey("go-witness.example/pq")
	must(err)
	quantum, err := cosig.NewMLDSASigner(secret)
	must(err)
	opened, err := note.Open(checkpoint, note.VerifierList(verifiersOf(in.Vkeys)...))
	must(err)
	signed, err := note.Sign(opened, classic, quantum)
	must(err)
	return output{Checkpoint: string(signed), Vkeys: []string{vkey, public}}
}

func decode(text string) []byte {
	data, err := base64.StdEncoding.DecodeString(text)
	must(err)
	return data
}

func ensure(holds bool, otherwise string) {
	if !holds {
		must(fmt.Errorf("%s", otherwise))
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
