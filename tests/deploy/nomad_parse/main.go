// Reads Nomad job files and checks them against the types of Nomad's own API: each block, attribute and kind of value must be
// one that a job has. Prints the jobs as JSON. It stands in for `nomad job validate`, which needs a Nomad.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/nomad/api"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/gocty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// Nomad fills these in on the node, long after the file is read.
var later = regexp.MustCompile(`\$\{((?:NOMAD_|attr\.|node\.|meta\.|device\.)[^}]*)\}`)

var (
	duration = reflect.TypeOf(time.Duration(0))
	anything = reflect.TypeOf(map[string]any{})
)

func main() {
	jobs := []*api.Job{}
	for _, path := range os.Args[1:] {
		job, diagnostics := read(path)
		if diagnostics.HasErrors() {
			for _, each := range diagnostics {
				fmt.Fprintln(os.Stderr, each)
			}
			os.Exit(1)
		}
		jobs = append(jobs, job)
	}
	if err := json.NewEncoder(os.Stdout).Encode(jobs); err != nil {
		panic(err)
	}
}

func read(path string) (*api.Job, hcl.Diagnostics) {
	text, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	file, diagnostics := hclsyntax.ParseConfig(later.ReplaceAll(text, []byte("$$$${$1}")), path, hcl.InitialPos)
	if diagnostics.HasErrors() {
		return nil, diagnostics
	}
	given := &hcl.EvalContext{Variables: map[string]cty.Value{}}
	var job *api.Job
	for _, block := range file.Body.(*hclsyntax.Body).Blocks {
		switch block.Type {
		case "variable":
			diagnostics = append(diagnostics, variable(block, given)...)
		case "locals":
			diagnostics = append(diagnostics, attributes(block.Body, given, "local")...)
		case "job":
			job = &api.Job{}
			diagnostics = append(diagnostics, fill(block, reflect.ValueOf(job).Elem(), given)...)
		default:
			diagnostics = append(diagnostics, unknown("block", block.Type, block.TypeRange))
		}
	}
	if job == nil && !diagnostics.HasErrors() {
		diagnostics = append(diagnostics, unknown("file without a job", path, file.Body.MissingItemRange()))
	}
	if diagnostics.HasErrors() {
		return nil, diagnostics
	}
	name := file.Body.(*hclsyntax.Body).Blocks
	for _, block := range name {
		if block.Type == "job" {
			job.ID, job.Name = &block.Labels[0], &block.Labels[0]
		}
	}
	job.Canonicalize()
	return job, diagnostics
}

// The default of a variable is its value here.
func variable(block *hclsyntax.Block, given *hcl.EvalContext) hcl.Diagnostics {
	value := cty.StringVal("given-by-the-operator")
	var diagnostics hcl.Diagnostics
	if attribute, found := block.Body.Attributes["default"]; found {
		value, diagnostics = attribute.Expr.Value(given)
	}
	return append(diagnostics, add(given, "var", block.Labels[0], value)...)
}

func attributes(body *hclsyntax.Body, given *hcl.EvalContext, root string) (diagnostics hcl.Diagnostics) {
	for name, attribute := range body.Attributes {
		value, said := attribute.Expr.Value(given)
		diagnostics = append(append(diagnostics, said...), add(given, root, name, value)...)
	}
	return
}

func add(given *hcl.EvalContext, root string, name string, value cty.Value) hcl.Diagnostics {
	known := map[string]cty.Value{}
	if before, found := given.Variables[root]; found {
		known = before.AsValueMap()
	}
	known[name] = value
	given.Variables[root] = cty.ObjectVal(known)
	return nil
}

// fill puts what a block says into a struct of the API.
func fill(block *hclsyntax.Block, target reflect.Value, given *hcl.EvalContext) (diagnostics hcl.Diagnostics) {
	for i := range target.NumField() {
		if strings.HasSuffix(target.Type().Field(i).Tag.Get("hcl"), ",label") && len(block.Labels) > 0 {
			set(target.Field(i), reflect.ValueOf(block.Labels[0]))
		}
	}
	for name, attribute := range block.Body.Attributes {
		field, isBlock := named(target, name)
		if !field.IsValid() || isBlock && field.Kind() != reflect.Map {
			diagnostics = append(diagnostics, unknown("attribute", name, attribute.NameRange))
			continue
		}
		value, said := attribute.Expr.Value(given)
		diagnostics = append(diagnostics, said...)
		if said.HasErrors() {
			continue
		}
		if err := assign(field, value); err != nil {
			diagnostics = append(diagnostics, wrong(name, err, attribute.Expr.Range()))
		}
	}
	for _, inner := range block.Body.Blocks {
		field, isBlock := named(target, inner.Type)
		if !field.IsValid() || !isBlock {
			diagnostics = append(diagnostics, unknown("block", inner.Type, inner.TypeRange))
			continue
		}
		diagnostics = append(diagnostics, nest(inner, field, given)...)
	}
	return
}

// nest puts an inner block where its field wants it: one, one of several, by its label, or as it stands.
func nest(block *hclsyntax.Block, field reflect.Value, given *hcl.EvalContext) hcl.Diagnostics {
	kind := field.Type()
	switch {
	case kind == anything:
		value, diagnostics := generic(block.Body, given)
		if !diagnostics.HasErrors() {
			field.Set(reflect.ValueOf(value))
		}
		return diagnostics
	case kind.Kind() == reflect.Map && kind.Elem().Kind() == reflect.String:
		field.Set(reflect.MakeMap(kind))
		var diagnostics hcl.Diagnostics
		for name, attribute := range block.Body.Attributes {
			text := reflect.New(kind.Elem()).Elem()
			value, said := attribute.Expr.Value(given)
			diagnostics = append(diagnostics, said...)
			if said.HasErrors() {
				continue
			}
			if err := assign(text, value); err != nil {
				diagnostics = append(diagnostics, wrong(name, err, attribute.Expr.Range()))
				continue
			}
			field.SetMapIndex(reflect.ValueOf(name), text)
		}
		return diagnostics
	case kind.Kind() == reflect.Slice:
		element := reflect.New(kind.Elem()).Elem()
		diagnostics := fill(block, struct_of(element), given)
		field.Set(reflect.Append(field, element))
		return diagnostics
	case kind.Kind() == reflect.Pointer || kind.Kind() == reflect.Struct:
		if kind.Kind() == reflect.Pointer && !field.IsNil() {
			return hcl.Diagnostics{unknown("second block", block.Type, block.TypeRange)}
		}
		return fill(block, struct_of(field), given)
	}
	return hcl.Diagnostics{unknown("kind of block", block.Type, block.TypeRange)}
}

func struct_of(value reflect.Value) reflect.Value {
	if value.Kind() == reflect.Pointer {
		value.Set(reflect.New(value.Type().Elem()))
		return value.Elem()
	}
	return value
}

// generic is for what a driver reads by itself.
func generic(body *hclsyntax.Body, given *hcl.EvalContext) (map[string]any, hcl.Diagnostics) {
	result := map[string]any{}
	var diagnostics hcl.Diagnostics
	for name, attribute := range body.Attributes {
		value, said := attribute.Expr.Value(given)
		diagnostics = append(diagnostics, said...)
		if said.HasErrors() {
			continue
		}
		text, err := ctyjson.Marshal(value, value.Type())
		var plain any
		if err == nil {
			err = json.Unmarshal(text, &plain)
		}
		if err != nil {
			diagnostics = append(diagnostics, wrong(name, err, attribute.Expr.Range()))
		}
		result[name] = plain
	}
	for _, block := range body.Blocks {
		inner, said := generic(block.Body, given)
		diagnostics = append(diagnostics, said...)
		before, _ := result[block.Type].([]any)
		result[block.Type] = append(before, inner)
	}
	return result, diagnostics
}

func named(target reflect.Value, name string) (field reflect.Value, isBlock bool) {
	for i := range target.NumField() {
		tag, kind, _ := strings.Cut(target.Type().Field(i).Tag.Get("hcl"), ",")
		if tag == name && kind != "label" {
			return target.Field(i), kind == "block"
		}
	}
	return
}

func assign(field reflect.Value, value cty.Value) error {
	kind := field.Type()
	if kind.Kind() == reflect.Pointer {
		kind = kind.Elem()
	}
	if kind == duration {
		text, err := convert.Convert(value, cty.String)
		if err != nil {
			return err
		}
		length, err := time.ParseDuration(text.AsString())
		if err != nil {
			return err
		}
		set(field, reflect.ValueOf(length))
		return nil
	}
	wanted, err := gocty.ImpliedType(reflect.New(kind).Elem().Interface())
	if err != nil {
		return err
	}
	if value, err = convert.Convert(value, wanted); err != nil {
		return err
	}
	result := reflect.New(kind)
	if err := gocty.FromCtyValue(value, result.Interface()); err != nil {
		return err
	}
	set(field, result.Elem())
	return nil
}

func set(field reflect.Value, value reflect.Value) {
	if field.Kind() == reflect.Pointer {
		field.Set(reflect.New(field.Type().Elem()))
		field = field.Elem()
	}
	field.Set(value)
}

func unknown(what string, name string, where hcl.Range) *hcl.Diagnostic {
	summary := fmt.Sprintf("no such %s: %s", what, name)
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Subject: &where}
}

func wrong(name string, err error, where hcl.Range) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: name, Detail: err.Error(), Subject: &where}
}
